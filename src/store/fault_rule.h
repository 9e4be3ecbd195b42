/*
 * The rules of a fault store: what text they are written in, and which io they meet. Apart from the
 * store itself, because text from outside is parsed here.
 *
 *   RULE      = OPS [@RANGE] ;ACTION [;CONDITION]...
 *   OPS       = any, or some of read write flush discard zero extent, joined by +
 *   RANGE     = START-END or START-      sizes like 512, 4K, 1M; END is the first byte behind it.
 *                                        An io that overlaps it is met; a flush always
 *   ACTION    = an error: eio enospc etimedout enomem erofs enodata eilseq eremoteio enxio enodev
 *                                        the io ends so, and touches nothing
 *             | delay=TIME               it goes on after this time (250ms, 2s)
 *             | hang                     it goes on when released, see store_fault_release()
 *             | short | short=SIZE       half of it (or SIZE) is done, then it ends in eio
 *   CONDITION = after=N                  the first N io that the rule meets pass
 *             | count=N                  it acts N times at most
 *             | prob=P                   it acts with a probability of P: 0.01
 *             | while=PATH               it acts while the file PATH exists; what hangs goes on
 *                                        when the file is gone. A probe heeds such a rule,
 *                                        too, whatever its other conditions
 *
 * An example: write+flush@1M-2M;eio;after=3;count=1
 */
#ifndef SPINDLE_STORE_FAULT_RULE_H
#define SPINDLE_STORE_FAULT_RULE_H

#include "loop/loop.h"

#define FAULT_ALL_OPS ((1u << IO_NOPS) - 1)

enum fault_action { FAULT_NONE, FAULT_ERROR, FAULT_DELAY, FAULT_HANG, FAULT_SHORT };

struct fault_rule {
	unsigned ops;        /* bit 1 << enum io_op */
	uint64_t start, end; /* bytes; all: 0, UINT64_MAX */
	enum fault_action action;
	int err;            /* ERROR: a negative errno */
	uint64_t delay_ns;  /* DELAY */
	uint64_t short_len; /* SHORT: bytes; UINT64_MAX: half */
	uint64_t after, count;
	uint64_t prob;          /* of 2^32 */
	const char *while_path; /* in the text that was parsed; NULL: always */
	/* What happened so far: */
	uint64_t met, acted;
};

/* `text` is cut in place and must outlive the rule. The diagnosis names the character. */
int fault_rule_parse(struct fault_rule *rule, char *text, struct diag *d);
/* Whether the rule acts on this io now; counts. `random` is a fresh random number. */
bool fault_rule_acts(struct fault_rule *rule, const struct io *io, uint64_t random);
/* Whether its while=PATH allows it to act. */
bool fault_rule_holds(const struct fault_rule *rule);

#endif
