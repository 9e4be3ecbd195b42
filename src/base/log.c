/*
 * Log lines: formatted into a buffer on the stack and written at once, so that threads need no
 * lock and lines never mix.
 */
#include "base/base.h"

#include <errno.h>
#include <inttypes.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warn", "note", "info", "debug"};

static bool append_time(char *buf, size_t cap, size_t *len, uint64_t realtime_ms)
{
	time_t seconds = (time_t)(realtime_ms / 1000);
	struct tm tm;

	gmtime_r(&seconds, &tm);
	return str_append(buf, cap, len, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", tm.tm_year + 1900,
			  tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
			  (unsigned)(realtime_ms % 1000));
}

static bool append_string(char *buf, size_t cap, size_t *len, const char *s)
{
	bool fits;

	if (s == NULL)
		return str_append(buf, cap, len, "-");
	if (!str_append(buf, cap, len, "\""))
		return false;
	fits = str_escape(buf + *len, cap - *len, s, strlen(s));
	*len += strlen(buf + *len);
	return fits && str_append(buf, cap, len, "\"");
}

static bool append_errno(char *buf, size_t cap, size_t *len, uint64_t num)
{
	const char *text = num > INT32_MAX ? NULL : strerrordesc_np((int)num);

	if (text == NULL)
		return str_append(buf, cap, len, "\"error %" PRIu64 "\"", num);
	return append_string(buf, cap, len, text);
}

static bool append_field(char *buf, size_t cap, size_t *len, const struct log_field *f)
{
	if (!str_append(buf, cap, len, " %s=", f->key))
		return false;
	switch (f->kind) {
	case LOG_STR:
		return append_string(buf, cap, len, f->str);
	case LOG_U64:
		return str_append(buf, cap, len, "%" PRIu64, f->num);
	case LOG_HEX:
		return str_append(buf, cap, len, "0x%04" PRIx64, f->num);
	case LOG_ERRNO:
		return append_errno(buf, cap, len, f->num);
	case LOG_END:
		break;
	}
	return true;
}

size_t log_format(char *buf, size_t cap, enum log_level level, uint64_t realtime_ms,
		  const char *event, const struct log_field *fields)
{
	static const char cut[] = "...";
	size_t len = 0;
	bool fits;

	CHECK(cap > sizeof(cut));
	fits = append_time(buf, cap, &len, realtime_ms) &&
	       str_append(buf, cap, &len, " %s %s", level_names[level], event);
	for (; fits && fields->kind != LOG_END; fields++)
		fits = append_field(buf, cap, &len, fields);
	if (!fits) {
		if (len > cap - sizeof(cut))
			len = cap - sizeof(cut);
		memcpy(buf + len, cut, sizeof(cut));
		len += sizeof(cut) - 1;
	}
	return len;
}

void log_write(const struct log *log, enum log_level level, const char *event,
	       const struct log_field *fields)
{
	char line[2048];
	struct timespec now;
	size_t len;
	ssize_t n;

	if (log == NULL || level > log->level)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	len = log_format(line, sizeof(line), level,
			 (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000, event,
			 fields);
	line[len] = '\n';
	do
		n = write(log->fd, line, len + 1);
	while (n < 0 && errno == EINTR);
}
