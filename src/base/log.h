/*
 * Log lines of an event and its fields:
 *
 *   2026-11-20T13:00:01.123Z info login-refused initiator="iqn..." status=0x0203
 *
 * Values are escaped here (quotes, control characters, bytes above 0x7e), so callers pass what came
 * from the wire as it is. A line is written by one write(2). Any thread may log.
 */
#ifndef SPINDLE_BASE_LOG_H
#define SPINDLE_BASE_LOG_H

#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_NOTE, LOG_INFO, LOG_DEBUG };

enum log_kind { LOG_END, LOG_STR, LOG_U64, LOG_HEX, LOG_ERRNO };

struct log_field {
	const char *key;
	enum log_kind kind;
	const char *str;
	uint64_t num;
};

#define F_STR(k, v) ((struct log_field){.key = (k), .kind = LOG_STR, .str = (v)})
#define F_U64(k, v) ((struct log_field){.key = (k), .kind = LOG_U64, .num = (uint64_t)(v)})
#define F_HEX(k, v) ((struct log_field){.key = (k), .kind = LOG_HEX, .num = (uint64_t)(v)})
/* v: a negative errno; shown by its text. */
#define F_ERRNO(k, v) ((struct log_field){.key = (k), .kind = LOG_ERRNO, .num = (uint64_t)(-(v))})

/* Immutable once threads run; owned by the daemon and passed down. NULL logs nothing. */
struct log {
	int fd;
	enum log_level level; /* what is more verbose is dropped */
};

void log_write(const struct log *log, enum log_level level, const char *event,
	       const struct log_field *fields);

/* log_event(log, LOG_INFO, "session-up", F_STR("initiator", name), F_U64("tsih", tsih)); */
#define log_event(log, level, event, ...) log_write(log, level, event, LOG_FIELDS(__VA_ARGS__))

/* Any number of fields, none included, as an array with its end: the first element is skipped, it
 * only spares the empty list a special case. */
#define LOG_FIELDS(...) \
	(&(const struct log_field[]){{.kind = LOG_END}, ##__VA_ARGS__, {.kind = LOG_END}}[1])

/* One line into `buf` without the newline; returns its length, always less than cap. For the tests
 * and log_write. */
size_t log_format(char *buf, size_t cap, enum log_level level, uint64_t realtime_ms,
		  const char *event, const struct log_field *fields);

#endif
