/*
 * Signals as events: a signalfd on loop 0.
 */
#include "loop/engine.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct loop_signals {
	struct loop_source source;
	struct loop *loop;
	int fd;
	sigset_t mask;
	struct {
		void (*caught)(void *arg, int signo);
		void *arg;
	} handlers[_NSIG];
};

static void signals_ready(struct loop_source *src, uint32_t epoll_events)
{
	struct loop_signals *s = container_of(src, struct loop_signals, source);
	struct signalfd_siginfo info;

	while (read(s->fd, &info, sizeof(info)) == sizeof(info)) {
		unsigned signo = info.ssi_signo;

		if (signo < _NSIG && s->handlers[signo].caught != NULL)
			s->handlers[signo].caught(s->handlers[signo].arg, (int)signo);
	}
}

static int signals_create(struct loop_signals **out, struct loop *loop)
{
	struct loop_signals *s = calloc(1, sizeof(*s));
	int err = -ENOMEM;

	if (s == NULL)
		return err;
	s->source.ready = signals_ready;
	s->loop = loop;
	sigemptyset(&s->mask);
	s->fd = signalfd(-1, &s->mask, SFD_NONBLOCK | SFD_CLOEXEC);
	err = s->fd < 0 ? -errno : loop_watch(loop, s->fd, &s->source, EPOLLIN);
	if (err != 0) {
		signals_destroy(s);
		return err;
	}
	*out = s;
	return 0;
}

void signals_destroy(struct loop_signals *s)
{
	if (s == NULL)
		return;
	if (s->fd >= 0) {
		loop_unwatch(s->loop, s->fd, &s->source);
		close(s->fd);
	}
	free(s);
}

int loop_signal(struct loop_set *set, int signo, void (*caught)(void *arg, int signo), void *arg)
{
	struct loop_signals *s;
	int err = 0;

	if (signo <= 0 || signo >= _NSIG)
		return -EINVAL;
	if (set->signals == NULL)
		err = signals_create(&set->signals, &set->loops[0]);
	if (err != 0)
		return err;
	s = set->signals;
	s->handlers[signo].caught = caught;
	s->handlers[signo].arg = arg;
	sigaddset(&s->mask, signo);
	err = pthread_sigmask(SIG_BLOCK, &s->mask, NULL);
	if (err != 0)
		return -err;
	return signalfd(s->fd, &s->mask, 0) < 0 ? -errno : 0;
}
