/*
 * Filling and showing a diagnosis.
 */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>

void diag_init(struct diag *d)
{
	memset(d, 0, sizeof(*d));
}

int diag_set(struct diag *d, int err, const char *what_fmt, ...)
{
	va_list args;

	if (d == NULL || d->what[0] != '\0')
		return err;
	va_start(args, what_fmt);
	vsnprintf(d->what, sizeof(d->what), what_fmt, args);
	va_end(args);
	return err;
}

void diag_at(struct diag *d, const char *file, unsigned line, unsigned column)
{
	if (d == NULL || d->file[0] != '\0' || d->line != 0)
		return;
	str_copy(d->file, sizeof(d->file), file == NULL ? "" : file);
	d->line = line;
	d->column = column;
}

void diag_fix(struct diag *d, const char *fix_fmt, ...)
{
	va_list args;

	if (d == NULL || d->fix[0] != '\0')
		return;
	va_start(args, fix_fmt);
	vsnprintf(d->fix, sizeof(d->fix), fix_fmt, args);
	va_end(args);
}

const char *diag_text(const struct diag *d, char *buf, size_t cap)
{
	size_t len = 0;

	if (cap == 0)
		return buf;
	buf[0] = '\0';
	if (d->file[0] != '\0')
		str_append(buf, cap, &len, "%s:", d->file);
	if (d->line != 0)
		str_append(buf, cap, &len, "%u:", d->line);
	if (d->line != 0 && d->column != 0)
		str_append(buf, cap, &len, "%u:", d->column);
	str_append(buf, cap, &len, "%s%s", len == 0 ? "" : " ", d->what);
	if (d->fix[0] != '\0')
		str_append(buf, cap, &len, "; %s", d->fix);
	return buf;
}
