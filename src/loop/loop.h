/*
 * loop: the only folder that talks to the kernel's event, socket, disk and timer interfaces.
 * May use: base. May be used by: everything above.
 *
 * A loop is one thread that runs callbacks one after another. Nothing that runs on a loop ever
 * waits. An object belongs to one loop and is touched on it only; other threads reach it by
 * loop_post().
 *
 * One turn of a loop:
 *
 *   sleep until an event, a timer or a post
 *   -> run ready sockets, finished disk I/O, due timers, posts
 *   -> run what was deferred until nothing is deferred -> run what waits for the end of the turn
 *   -> (again from the deferred, while there are any) -> sleep
 *
 * so replies that are queued while a burst of requests is worked off leave in one system call.
 *
 * Engines: epoll with an io_uring ring for disks, epoll with worker threads, and the simulator
 * (sim.h), which runs any number of loops on one thread, on a virtual clock, in an order that a
 * seed decides.
 */
#ifndef SPINDLE_LOOP_H
#define SPINDLE_LOOP_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/base.h"

struct loop;
struct loop_set;

/* ---- The set of loops ------------------------------------------------------------------------ */

enum loop_disk_engine {
	LOOP_DISK_AUTO,    /* io_uring where the kernel lets us, worker threads elsewhere */
	LOOP_DISK_WORKERS, /* SPINDLE_NO_URING=1 selects this, too */
};

struct loop_config {
	unsigned nloops; /* 0: one a core */
	enum loop_disk_engine disk_engine;
	/* What all loops together may take for data on its way, see "Memory"; 0: LOOP_MEMORY, or
	 * LOOP_MEMORY_SHARE a loop where that is more. -ERANGE: less than LOOP_MEMORY_MIN a loop. */
	uint64_t memory_bytes;
};

#define LOOP_MEMORY       (256 * MiB)
#define LOOP_MEMORY_SHARE (64 * MiB)
#define LOOP_MEMORY_MIN   (16 * MiB)

/* Allocates the loops; their threads start in loop_set_run. */
int loop_set_create(struct loop_set **out, const struct loop_config *config, struct diag *d);
/* All threads have ended. Files, streams and timers are closed before. */
void loop_set_destroy(struct loop_set *set);
unsigned loop_set_count(const struct loop_set *set);
struct loop *loop_set_at(struct loop_set *set, unsigned index);
/* "io_uring" or "worker threads": what disks are read with. */
const char *loop_set_disk_engine(const struct loop_set *set);
/* Starts loops 1.. on threads of their own and runs loop 0 on the caller's thread until
 * loop_set_stop; then all loops end after the turn they are in, and their threads are joined. On an
 * error no loop has run. */
int loop_set_run(struct loop_set *set);
/* Any thread, and signal handlers. */
void loop_set_stop(struct loop_set *set);

/* The loop whose callback is running on this thread, NULL elsewhere. */
struct loop *loop_self(void);
unsigned loop_index(const struct loop *loop);
struct loop_set *loop_set_of(const struct loop *loop);
/* CLOCK_MONOTONIC as read when the loop last woke or began a batch of completions: free to ask. */
uint64_t loop_now_ns(const struct loop *loop);
/* The same clock, read now: for who is on no loop of the set. Any thread, also before it runs. */
uint64_t loop_set_clock_ns(const struct loop_set *set);

/* ---- Messages -------------------------------------------------------------------------------- */

/* Embedded in what they are about; in at most one queue at a time; whoever embeds one keeps it
 * alive until `run` has started. */

struct loop_msg {
	struct qnode link;
	void (*run)(struct loop_msg *msg);
};

/* To another loop, or the same one, from any thread: lock-free, wakes the loop only if it sleeps.
 * Messages from one thread to one loop arrive in order. */
void loop_post(struct loop *to, struct loop_msg *msg);
/* On `self` only: later in this turn, in order. Completions come this way, so that none ever runs
 * on its submitter's stack. (A chain of messages that keep deferring the next is interrupted now
 * and then, for the sockets and the other loops; it goes on in the next turn.) */
void loop_defer(struct loop *self, struct loop_msg *msg);
/* On `self` only: once nothing is deferred any more, before the loop sleeps. For what gathers a
 * batch. */
void loop_at_end(struct loop *self, struct loop_msg *msg);

/* ---- Timers: on their loop only -------------------------------------------------------------- */

struct loop_timer {
	void (*fired)(struct loop_timer *timer);
	/* private */
	struct loop *loop;
	uint64_t due_ns;
	size_t heap_at; /* 1-based place in the loop's heap, 0: not running */
};

void loop_timer_init(struct loop_timer *t, struct loop *loop,
		     void (*fired)(struct loop_timer *timer));
/* Starts, or moves a running timer. Returns 0 or -ENOMEM. */
int loop_timer_start(struct loop_timer *t, uint64_t delay_ns);
void loop_timer_stop(struct loop_timer *t); /* fine when it does not run */
static inline bool loop_timer_running(const struct loop_timer *t)
{
	return t->heap_at != 0;
}

/* ---- Signals: on loop 0, before loop_set_run ------------------------------------------------- */

/* `caught` runs on loop 0. The signal is blocked in every thread. Returns 0 or -errno. */
int loop_signal(struct loop_set *set, int signo, void (*caught)(void *arg, int signo), void *arg);

/* ---- Buffers: memory for payloads, from per-loop pools, page-aligned, not cleared ------------ */

struct loop_share;

struct loop_buf {
	uint8_t *data;
	uint32_t cap; /* at least what was asked for */
	/* private */
	uint8_t class, need;
	struct loop *loop;
	struct loop_share *share; /* that it is charged to, or NULL */
	struct qnode link;
};

#define LOOP_BUF_MAX (256 * 1024u)

/* On `loop` only, both. NULL: out of memory, or of the budget (LOOP_CONN). Up to LOOP_BUF_MAX bytes. */
struct loop_buf *loop_buf_get(struct loop *loop, uint32_t len_bytes);
void loop_buf_put(struct loop_buf *buf); /* NULL is fine */
/* What the buffer for so many bytes takes. */
uint32_t loop_buf_size(uint32_t len_bytes);

/*
 * ---- Memory: who gets a buffer when there are few --------------------------------------------
 *
 * A loop has a budget, its part of loop_config.memory_bytes: for its buffers, lent or kept for reuse,
 * and for what is charged to it. Each kind has a part of its own, so that none can shut out another:
 *
 *   LOOP_SEGMENT  7/16, for who can wait: a piece of a command's data, and the PDUs that carry it
 *   LOOP_EARLY    5/16, for who cannot: commands, what comes with them, and their answers
 *   LOOP_CONN     2/16, for connections: what they have read of a PDU, and what they say
 *   LOOP_URGENT   2/16, for segments that hold data or a lock already, and give back both
 *
 * Charges are not refused, so who is charged sees to it that they have an end.
 *
 * A share is what one client has. Of what comes early it may hold as much as it leaves free, one
 * alone half. Of segments half is for those that have less than LOOP_BUF_MAX, who get a buffer as
 * long as there is one; of the other half a share may hold as much as it leaves free, one alone a
 * quarter of all. Those that wait are served in order within a share, and one after another among
 * shares. All on the share's loop.
 */
enum loop_need { LOOP_SEGMENT, LOOP_EARLY, LOOP_CONN, LOOP_URGENT, LOOP_NEEDS };

/* NULL: there is no memory. */
struct loop_share *loop_share_create(struct loop *loop);
/* Nobody takes from it any more, nobody waits. It is freed when its last buffer was put. NULL is fine. */
void loop_share_close(struct loop_share *share);
/* For who cannot wait, LOOP_EARLY. NULL: too much is taken. */
struct loop_buf *loop_share_get(struct loop_share *share, uint32_t len_bytes);
/* Whether there is so much left that somebody who has a segment may have another one of this size. */
bool loop_share_plenty(const struct loop_share *share, uint32_t len_bytes);

/* One who waits for a buffer of len_bytes. */
struct loop_wait {
	struct loop_buf **buf; /* set when it is there */
	uint32_t len_bytes;
	enum loop_need need; /* LOOP_SEGMENT; LOOP_URGENT: for a moment, not for the network */
	/* It is there; -ENOMEM: it will not be, for the system has none. Not on the stack of
	 * loop_share_take() or loop_buf_put(). */
	void (*granted)(struct loop_wait *w, int err);
	/* private */
	struct loop_share *share; /* NULL: it does not wait */
	struct list link;
};

/* true: it is there. false: `granted` comes. What is above "private" is filled in. */
bool loop_share_take(struct loop_share *share, struct loop_wait *w);
static inline bool loop_wait_waits(const struct loop_wait *w)
{
	return w->share != NULL;
}
/* `granted` does not come any more. Fine when it does not wait; w->share is NULL before first use. */
void loop_wait_cancel(struct loop_wait *w);

/* Other memory of what is done on the loop, while it is in use. */
void loop_charge(struct loop *loop, enum loop_need need, size_t bytes);
void loop_uncharge(struct loop *loop, enum loop_need need, size_t bytes);
/* Half is taken: what can be refused or put off should be. */
bool loop_is_short(struct loop *loop, enum loop_need need);
/* Somebody has waited for a LOOP_SEGMENT for LOOP_STUCK_NS, and nobody got one in that time: there
 * are those that give nothing back. It stays so for LOOP_STUCK_LASTS_NS, so that all of them are
 * found, and not only the first. */
bool loop_is_stuck(struct loop *loop);
#define LOOP_STUCK_NS       UINT64_C(1000000000)
#define LOOP_STUCK_LASTS_NS (3 * LOOP_STUCK_NS)
/* What may be promised to all clients together for what comes unasked: half of LOOP_EARLY, which is
 * also the most that one alone can have. */
uint64_t loop_unasked_bytes(struct loop *loop);
/* What is lent and charged now; for tests. */
uint64_t loop_memory_used(struct loop *loop);

/* ---- Stream sockets -------------------------------------------------------------------------- */

union net_addr {
	struct sockaddr sa;
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;
};

#define NET_ADDR_TEXT 64

/* "10.0.0.5:3260", "[fd00::5]:3260", "[::]", ":3260" (all of IPv4 and IPv6), "10.0.0.5": numbers
 * only. A missing port becomes `default_port`. */
int net_addr_parse(union net_addr *out, const char *text, uint16_t default_port, struct diag *d);
const char *net_addr_text(const union net_addr *a, char buf[NET_ADDR_TEXT]);
uint16_t net_addr_port(const union net_addr *a);
bool net_addr_is_any(const union net_addr *a);

struct listener;
/* `accepted` runs on the listener's loop and owns the connected, non-blocking socket. */
typedef void listener_accepted_fn(void *arg, int fd, const union net_addr *peer);

/* Opens at once; connections are accepted once `loop` runs. Port 0 takes a free one. At EMFILE and
 * the like it pauses for a moment rather than spin. */
int listener_open(struct listener **out, struct loop *loop, const union net_addr *addr,
		  listener_accepted_fn *accepted, void *arg, struct diag *d);
void listener_close(struct listener *l);
/* The address it is bound to, with the port that was taken. */
const union net_addr *listener_addr(const struct listener *l);

enum stream_event { STREAM_IN = 1, STREAM_OUT = 2, STREAM_HUP = 4 };

/* Private: what epoll points to. */
struct loop_source {
	void (*ready)(struct loop_source *src, uint32_t epoll_events);
};

/* A connected socket on one loop, embedded in its owner. Level-triggered: `ready` is called each
 * turn while a wanted event holds. STREAM_HUP (error or hang-up) is reported whatever is wanted. */
struct stream {
	void (*ready)(struct stream *s, unsigned events);
	/* private */
	struct loop *loop;
	int fd; /* -1: closed */
	unsigned wanted;
	struct loop_source source;
};

/* Takes over `fd` (TCP_NODELAY and keepalive are set). `ready` is set before. Returns 0 or -errno,
 * and leaves the fd to the caller on error. */
int stream_open(struct stream *s, struct loop *loop, int fd, unsigned wanted);
int stream_want(struct stream *s, unsigned wanted);
/* Bytes moved (0 from recv: end of stream), or -errno: -EAGAIN when nothing moves now. */
ssize_t stream_recv(struct stream *s, const struct iovec *iov, unsigned niov);
ssize_t stream_send(struct stream *s, const struct iovec *iov, unsigned niov);
/* Nothing more is sent: the peer reads the end behind what was. */
void stream_shutdown(struct stream *s);
/* Gives the fd back, still connected: for a move to another loop. */
int stream_release(struct stream *s);
void stream_close(struct stream *s); /* fine when closed; `ready` is not called again */
int stream_local_addr(const struct stream *s, union net_addr *out);

/* ---- Packet sockets: Ethernet frames of one type on one interface ---------------------------- */

#define PACKET_MAC_LEN 6
#define PACKET_KEY_LEN 3
#define PACKET_BATCH   64

/* Embedded in its owner, on one loop. Needs CAP_NET_RAW. */
struct packet {
	/* STREAM_IN: there may be frames; STREAM_OUT: there is room again. Set before it is opened. */
	void (*ready)(struct packet *p, unsigned events);
	/* Out of packet_recv: a frame, whose bytes are good until it returns. */
	void (*frame)(struct packet *p, const uint8_t *data, uint32_t len);
	uint8_t mac[PACKET_MAC_LEN]; /* the interface's, as far as it was told */
	int index;                   /* the interface's: one that is made anew has another */
	char interface[16];
	/* private */
	struct loop *loop; /* NULL: never opened */
	int fd;
	unsigned wanted;
	struct loop_source source;
	/* Not watched but while it has no room: else each frame that leaves would look for who waits. */
	int send_fd;
	bool send_full, send_watched;
	struct loop_source send_source;
	struct packet_ring {
		uint8_t *at; /* NULL: there is none */
		size_t block, nblocks, frame, per_block;
		size_t next;
	} ring;
	struct xdp *xdp; /* NULL: not used */
	uint64_t lost;
};

struct packet_config {
	const char *interface;
	uint32_t frame_max; /* bytes: longer ones are dropped */
	uint16_t ethertype;
	bool xdp;        /* short frames of the first queue come and go by AF_XDP */
	unsigned frames; /* how many may wait, at least: memory of frame_max bytes each */
	/* Frames are delivered whose byte at mask_at has this value in these bits. */
	uint8_t mask_at, mask_bits, mask_value;
	uint8_t key_at; /* behind it: what packet_add_key() tells of */
};

/* To be sent: `data` begins with the destination's address. */
struct packet_frame {
	const uint8_t *data;
	uint32_t len;
};

/* Before the loop runs, or on it; nothing is wanted yet. 0 or -errno: -ENODEV, -EPERM, -EPROTONOSUPPORT: no Ethernet. */
int packet_open(struct packet *p, struct loop *loop, const struct packet_config *config);
void packet_close(struct packet *p); /* fine when closed; `ready` is not called again */
static inline bool packet_is_open(const struct packet *p)
{
	return p->loop != NULL && p->fd >= 0;
}
/* Whoever has these bytes is wanted: AF_XDP leaves all others to those who may serve them by the same
 * interface; a packet socket takes from nobody. 0 or -errno. */
int packet_add_key(struct packet *p, const uint8_t key[PACKET_KEY_LEN]);
/* -ENETDOWN: it is closed. STREAM_OUT: after packet_send() has said -EAGAIN. */
int packet_want(struct packet *p, unsigned wanted);
/* The interface has another address. 0 or -errno: it is known, but AF_XDP is used no more. */
int packet_follow_address(struct packet *p, const uint8_t mac[PACKET_MAC_LEN]);
/* Hands at most `n` frames for this machine and interface to `frame`, and says how many there were. */
unsigned packet_recv(struct packet *p, unsigned n);
/* How many there was no room for, since it was first opened. */
uint64_t packet_lost(struct packet *p);
/* How many left, from the first one on, at most PACKET_BATCH, or -errno of the first one: -EAGAIN,
 * -ENOBUFS, -ENETDOWN (also: it is closed), -EMSGSIZE. */
int packet_send(struct packet *p, const struct packet_frame *frames, unsigned n);

/* ---- Network interfaces: how they are, and when that changes --------------------------------- */

/* Embedded in its owner, on one loop. */
struct link_watch {
	/* Something has changed, or may have: look. Both are set before it is opened. */
	void (*changed)(struct link_watch *w);
	/* This interface was down, and may be up again; `changed` comes next. */
	void (*down)(struct link_watch *w, int index);
	/* private */
	struct loop *loop; /* NULL: never opened */
	int fd;
	struct loop_source source;
};

struct link_facts {
	int index;
	unsigned mtu;
	bool up; /* frames pass: it is up, and so is its carrier */
	uint8_t mac[PACKET_MAC_LEN];
};

/* Before the loop runs, or on it. 0 or -errno. */
int link_watch_open(struct link_watch *w, struct loop *loop);
void link_watch_close(struct link_watch *w); /* fine when closed */
/* By a watch that is open. 0 or -errno: -ENODEV, -EPROTONOSUPPORT: no Ethernet. */
int link_look(const struct link_watch *w, const char *name, struct link_facts *out);

/* ---- Names that one process of a network namespace has at a time ----------------------------- */

/* On any thread. A descriptor that keeps it, or -errno: -EADDRINUSE: somebody has it, maybe this process. */
int claim_open(const char *name);
void claim_close(int fd); /* -1 is fine */

/* ---- Work that may block: on worker threads -------------------------------------------------- */

/* A lane bounds how many threads one disk may occupy at a time; what is over waits its turn, in
 * order. Any thread may add work. */
struct work_lane;
int work_lane_create(struct work_lane **out, struct loop_set *set, unsigned max_running);
/* Nothing is waiting or running in it. */
void work_lane_destroy(struct work_lane *lane);

struct work {
	void (*run)(struct work *w);  /* on a worker thread */
	void (*done)(struct work *w); /* on `loop`, afterwards */
	struct loop *loop;
	/* private */
	struct loop_msg msg;
	struct work_lane *lane;
};

void work_submit(struct work_lane *lane, struct work *w);

/* ---- Disk I/O -------------------------------------------------------------------------------- */

enum io_op {
	IO_READ,
	IO_WRITE,
	IO_FLUSH, /* all writes that completed before are durable; offset and length are ignored */
	IO_DISCARD, /* the range may lose its data; what it reads as is the store's to say */
	IO_ZERO,    /* the range reads zeros; IO_MAY_UNMAP: it may lose its space, too */
	IO_EXTENT,  /* how far from `off` the range is all data or all hole: `extent` */
};
#define IO_NOPS 6

enum io_flags {
	/* WRITE, ZERO: durable before done. The kernel may answer with the failure of an earlier
	 * write, and tells it only once: the store that syncs keeps it in mind as that of a FLUSH.
	 * (For those above it an error is one of this range.) */
	IO_FUA = 1,
	IO_MAY_UNMAP = 2, /* ZERO */
};

struct io_extent {
	uint64_t len_bytes; /* from io->off, at most io->len */
	bool hole;
};

/*
 * One read, write, flush, ... on a range of bytes. Embedded in its owner, never allocated on its
 * own. The owner fills the first part, submits it on `loop` (the loop that runs: it is checked),
 * and gets it back by `done` on the same loop, never on its own stack. The iovecs and what they
 * point to stay valid until then.
 */
struct io {
	enum io_op op;
	unsigned flags;
	uint64_t off, len; /* bytes */
	struct iovec *iov; /* READ, WRITE: sums up to len */
	unsigned niov;     /* at most IO_MAX_IOV */
	int result;        /* 0 or -errno; a transfer is never short */
	struct io_extent extent;
	void (*done)(struct io *io);
	struct loop *loop;
	/* Private to the layers below, top down: each sets `ended` before it hands the io on, and
	 * is called back by io_end(). `layer` is the pointer it needs then. */
	void (*ended)(struct io *io, int err);
	void *layer;
	struct loop_msg msg;
	uint64_t progress; /* the engine's: bytes moved so far */
};

#define IO_MAX_IOV 64

/* For those who complete an io: hands it to the layer that passed it on. On io->loop. */
static inline void io_end(struct io *io, int err)
{
	io->ended(io, err);
}

/* The topmost `ended`: sets the result and defers `done`. */
void io_finish(struct io *io, int err);

/* A regular file or block device, opened for a store. Used on every loop at once. */
struct file;

enum file_flags {
	FILE_READ_ONLY = 1,
	FILE_PROVISIONAL = 4, /* one that is made is removed by file_close(), until file_keep() */
	FILE_DIRECT =
		2, /* O_DIRECT: iovecs, offsets and lengths are aligned to info.direct_align, which
		    * info.logical_block is not less than */
};

struct file_config {
	const char *path;
	unsigned flags;
	/* Not 0: a missing file is made, sparse, with this size; an existing one must have it. */
	uint64_t create_size;
	/* Bytes that are used, and locked; part_len 0: to the end. The rest may be used by others. */
	uint64_t part_off, part_len;
	unsigned max_running; /* worker threads it may occupy; 0: 4 */
};

struct file_info {
	uint64_t size;
	bool block_device, read_only;
	bool in_memory; /* tmpfs, ramfs: reads and writes do not sleep */
	bool rotational;
	uint32_t logical_block, physical_block, direct_align; /* bytes */
	uint32_t discard_granularity, discard_alignment;      /* bytes; granularity 0: cannot */
	uint32_t optimal_io;                                  /* bytes; 0: unknown */
	bool discard_zeroes; /* what is discarded reads as zeros afterwards, always */
	bool keeps_tags;     /* file_tag_set works */
	bool known_again; /* file_fingerprint says the same after a restart, and never of another */
	/* Of the device, or of the one that holds the file, as it says (SBC-3 6.6.4). 0: it does
	 * not. */
	uint16_t rotation_rate; /* 1: does not rotate; else revolutions a minute */
	uint8_t form_factor;
};

struct file_status {
	uint64_t size;
	bool read_only;
	bool unlinked;                 /* its name is gone: the data end when it is closed */
	uint64_t allocated, available; /* bytes; UINT64_MAX: unknown */
};

/* Blocking: for start-up and worker threads. A directory, a FIFO, a character device and a file
 * that another Spindle has opened for writing (an OFD lock tells) are refused. */
int file_open(struct file **out, struct loop_set *set, const struct file_config *config,
	      struct diag *d);
/* It is of use: the file stays. */
void file_keep(struct file *f);
/* No io is in flight. Blocking. */
void file_close(struct file *f);
const struct file_info *file_info(const struct file *f);
/* Extends a regular file to this size, durably, or (size 0, and devices always) takes over the size
 * it has now. Never shrinks: -ERANGE. -ENOSPC: the device is smaller than that. I/O may be under
 * way; one at a time. Blocking. -EIO means what a failed FLUSH means. */
int file_resize(struct file *f, uint64_t size);
/* How it is now, or -errno: it is gone. It comes back only as the same file or device. Any thread,
 * I/O may be under way. Blocking. */
int file_probe(struct file *f, struct file_status *out);
/*
 * All ops, but WRITE and ZERO without IO_FUA: add a FLUSH. Ends by io_end(). Small reads of cached
 * data end inline; the rest goes to the ring or to workers: writes that a file system may put to
 * sleep are gathered per loop, neighbours joined, and handed over in batches at the end of the
 * turn. A read past the end of the file is -EIO. Errors are the system's own.
 */
void file_submit(struct file *f, struct io *io);
/* Small named values kept with the file (xattr user.spindle.NAME): -ENODATA when there is none,
 * -EOPNOTSUPP where the file system or device has no such thing. Blocking. Returns bytes or -errno;
 * -EIO from file_tag_set means what a failed FLUSH means. */
ssize_t file_tag_get(struct file *f, const char *name, void *buf, size_t cap);
int file_tag_set(struct file *f, const char *name, const void *buf, size_t len);
/* What tells this file from a copy of it: inode, birth time; for a device its WWID or serial. As
 * text. */
int file_fingerprint(struct file *f, char *buf, size_t cap);

/* ---- Small named values in a directory --------------------------------------------------------
 *
 * For disks whose files and devices keep none: DIR/GROUP/NAME. All blocking. */

#define KEPT_VALUE_MAX (8 * KiB)
#define KEPT_BOUND_MAX 512

struct kept_place {
	const char *dir;
	const char *group;    /* as names: of a-z, 0-9, - and _, shorter than 64 bytes */
	const char *bound_to; /* one line: a value is got only by who set it for the same */
};

/* Bytes, or -errno: -ENODATA when there is none (or it is bound to another), -ERANGE when it is longer
 * than `cap`, -EBADMSG when there is one that makes no sense. */
ssize_t kept_get(const struct kept_place *place, const char *name, void *buf, size_t cap);
/* Durable when it answers 0; read as the old or the new value whatever happens meanwhile. What is
 * missing of the directory is made, for its owner alone. The system's own errors, -EFBIG: longer than
 * KEPT_VALUE_MAX. */
int kept_set(const struct kept_place *place, const char *name, const void *buf, size_t len);

#endif
