/*
 * Writes the tables of docs/scsi.md from the tables of the code: commands, pages, sense codes, unit
 * attentions. The text around them is written by hand, in the page itself; a table stands between
 * "<!-- NAME -->" and "<!-- end -->".
 *
 *   scsi-md FILE           writes it anew
 *   scsi-md --check FILE   1, and what differs, when that would change it
 */
#include "scsi/impl.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define FILE_MAX (1 << 20)

/* ---- Commands ---- */

static const char *direction(enum scsi_dir dir)
{
	switch (dir) {
	case SCSI_DATA_IN:
		return "in";
	case SCSI_DATA_OUT:
		return "out";
	default:
		return "";
	}
}

/* Whose reservations stop it. */
static const char *conflict(enum scsi_conflict conflict)
{
	switch (conflict) {
	case CONFLICT_NEVER:
		return "none";
	case CONFLICT_RESERVE:
		return "RESERVE";
	case CONFLICT_READ:
		return "readers'";
	default:
		return "writers'";
	}
}

static const struct {
	unsigned flag;
	const char *word;
} words[] = {
	{CMD_CHANGES_DATA, "writes"},      {CMD_WHEN_STOPPED, "stopped"},
	{CMD_WHEN_REWRITING, "rewriting"}, {CMD_UA_EXEMPT, "no attention"},
	{CMD_BYPASS, "at once"},           {CMD_ANY_LUN, "any LUN"},
	{CMD_WELL_KNOWN_LUN, "W-LUN"},     {CMD_THIN, "thin"},
	{CMD_UNMAP_BIT, "thin: UNMAP"},
};

static void write_words(FILE *f, unsigned flags)
{
	const char *comma = "";

	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (!(flags & words[i].flag))
			continue;
		fprintf(f, "%s%s", comma, words[i].word);
		comma = ", ";
	}
}

static void write_command(FILE *f, const struct scsi_cmd *cmd)
{
	uint8_t usage[SCSI_CDB_MAX];

	fprintf(f, "| %02X", cmd->opcode);
	if (cmd->service_action != CMD_NO_SA)
		fprintf(f, "/%02X", cmd->service_action);
	fprintf(f, " | %s | %s | %s | ", cmd->name, direction(cmd->dir), conflict(cmd->conflict));
	write_words(f, cmd->flags);
	fprintf(f, " | %u s | `", cmd->recommended_s);
	scsi_cmd_usage(cmd, NULL, usage);
	for (unsigned i = 0; i < cmd->cdb_len; i++)
		fprintf(f, "%s%02X", i == 0 ? "" : " ", usage[i]);
	fprintf(f, "` |\n");
}

static void write_commands(FILE *f)
{
	const struct scsi_cmd_list list = scsi_commands();

	fprintf(f, "| opcode | command | data | stopped by reservations | properties | timeout | "
		   "CDB usage data |\n"
		   "|---|---|---|---|---|---|---|\n");
	for (unsigned i = 0; i < list.n; i++)
		write_command(f, &list.rows[i]);
}

/* ---- Pages ---- */

static void write_code(FILE *f, const struct page_info *page)
{
	fprintf(f, "| %02X", page->code);
	if (page->subpage != 0)
		fprintf(f, "/%02X", page->subpage);
	fprintf(f, " | %s |", page->name);
}

static void write_mode_pages(FILE *f)
{
	struct page_info page;

	fprintf(f, "| page | name | changeable |\n|---|---|---|\n");
	for (unsigned i = 0; page = mode_page_info(i), page.name != NULL; i++) {
		const char *comma = " ";

		write_code(f, &page);
		for (unsigned bit = 0; bit < MODE_NBITS; bit++) {
			if (!(page.changes >> bit & 1))
				continue;
			fputs(comma, f);
			for (const char *c = mode_bit_name(bit); *c != 0; c++)
				fputc(toupper((unsigned char)*c), f);
			comma = ", ";
		}
		fprintf(f, " |\n");
	}
}

static void write_pages(FILE *f, struct page_info (*page_info)(unsigned i))
{
	struct page_info page;

	fprintf(f, "| page | name |\n|---|---|\n");
	for (unsigned i = 0; page = page_info(i), page.name != NULL; i++) {
		write_code(f, &page);
		fprintf(f, "\n");
	}
}

static void write_log_pages(FILE *f)
{
	write_pages(f, log_page_info);
}

static void write_vpd_pages(FILE *f)
{
	write_pages(f, vpd_page_info);
}

/* ---- Sense ---- */

static const struct sense_row {
	uint8_t key, asc, ascq;
	const char *text;
} sense_rows[] = {
#define SENSE_ROW(name, key, asc, ascq, text) {key, asc, ascq, text},
#include "scsi/sense.def"
#undef SENSE_ROW
};

static const char *const key_names[16] = {
	[0x0] = "NO SENSE",        [0x1] = "RECOVERED ERROR", [0x2] = "NOT READY",
	[0x3] = "MEDIUM ERROR",    [0x4] = "HARDWARE ERROR",  [0x5] = "ILLEGAL REQUEST",
	[0x6] = "UNIT ATTENTION",  [0x7] = "DATA PROTECT",    [0x8] = "BLANK CHECK",
	[0xb] = "ABORTED COMMAND", [0xe] = "MISCOMPARE",
};

static void write_sense(FILE *f)
{
	fprintf(f, "| key | ASC/ASCQ | text |\n|---|---|---|\n");
	for (size_t i = 0; i < ARRAY_LEN(sense_rows); i++) {
		const struct sense_row *row = &sense_rows[i];

		fprintf(f, "| %X %s | %02X/%02X | %s |\n", row->key, key_names[row->key], row->asc,
			row->ascq, row->text);
	}
}

static void write_attentions(FILE *f)
{
	fprintf(f, "| ASC/ASCQ | unit attention |\n|---|---|\n");
	for (unsigned ua = 0; ua < UA_COUNT; ua++) {
		struct nexus nexus = {0};
		struct scsi_itl itl = {.nexus = &nexus};
		enum sense sense;

		list_init(&nexus.itls);
		ua_add(&itl, ua);
		CHECK(ua_take(&itl, &sense));
		fprintf(f, "| %02X/%02X | %s |\n", sense_rows[sense].asc, sense_rows[sense].ascq,
			sense_rows[sense].text);
	}
}

/* ---- The page ---- */

static const struct table {
	const char *name;
	void (*write)(FILE *f);
} tables[] = {
	{"commands", write_commands},   {"mode pages", write_mode_pages},
	{"vpd pages", write_vpd_pages}, {"log pages", write_log_pages},
	{"sense", write_sense},         {"unit attentions", write_attentions},
};

static char *read_file(const char *path)
{
	char *text = calloc(1, FILE_MAX);
	FILE *f = fopen(path, "r");

	if (text == NULL || f == NULL || fread(text, 1, FILE_MAX - 1, f) == 0) {
		fprintf(stderr, "scsi-md: %s cannot be read\n", path);
		exit(1);
	}
	fclose(f);
	return text;
}

/* The line that begins a table: its row, or NULL. */
static const struct table *table_of(const char *line)
{
	for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
		char mark[64];

		snprintf(mark, sizeof(mark), "<!-- %s -->\n", tables[i].name);
		if (strncmp(line, mark, strlen(mark)) == 0)
			return &tables[i];
	}
	return NULL;
}

/* Line by line; what stands in the place of a table is left out. The number of tables. */
static unsigned write_page(FILE *f, const char *page)
{
	static const char end[] = "<!-- end -->\n";
	unsigned n = 0;

	while (*page != 0) {
		const struct table *table = table_of(page);
		const char *next = strchr(page, '\n');

		next = next != NULL ? next + 1 : page + strlen(page);
		fwrite(page, 1, (size_t)(next - page), f);
		page = next;
		if (table == NULL)
			continue;
		table->write(f);
		n++;
		page = strstr(page, end);
		if (page == NULL)
			return 0;
	}
	return n;
}

static void tell_difference(const char *is, const char *wanted)
{
	unsigned line = 1;

	for (; *is == *wanted && *is != 0; is++, wanted++)
		line += *is == '\n';
	while (*(wanted - 1) != '\n')
		wanted--;
	fprintf(stderr,
		"line %u is not as the code has it: \"make docs\" writes it anew, there as\n%.*s\n",
		line, (int)strcspn(wanted, "\n"), wanted);
}

int main(int argc, char **argv)
{
	const bool check = argc == 3 && strcmp(argv[1], "--check") == 0;
	const char *path = argv[argc - 1];
	char *is, *wanted = NULL;
	size_t len;
	FILE *f;
	int status = 0;

	if (argc != 2 && !check) {
		fprintf(stderr, "usage: scsi-md [--check] FILE\n");
		return 2;
	}
	is = read_file(path);
	f = open_memstream(&wanted, &len);
	CHECK(f != NULL);
	if (write_page(f, is) != ARRAY_LEN(tables)) {
		fprintf(stderr, "scsi-md: %s does not have its %zu tables\n", path,
			ARRAY_LEN(tables));
		status = 1;
	}
	fclose(f);
	if (status == 0 && strcmp(is, wanted) != 0) {
		f = check ? NULL : fopen(path, "w");
		if (check)
			tell_difference(is, wanted);
		status = f == NULL || fwrite(wanted, 1, len, f) != len || fclose(f) != 0;
	}
	free(is);
	free(wanted);
	return status;
}
