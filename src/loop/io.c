/*
 * The topmost end of an io. Apart because both engines use it.
 */
#include "loop/loop.h"

static void io_run_done(struct loop_msg *msg)
{
	struct io *io = container_of(msg, struct io, msg);

	io->done(io);
}

void io_finish(struct io *io, int err)
{
	io->result = err;
	io->msg.run = io_run_done;
	loop_defer(io->loop, &io->msg);
}
