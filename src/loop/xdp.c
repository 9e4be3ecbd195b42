#include "loop/xdp.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHUNK    4096 /* of memory, a frame each */
#define RX       1024
#define TX       512
#define CHUNKS   (RX + TX)
#define ROOM     (CHUNK - 256) /* XDP_PACKET_HEADROOM */
#define KICKS    (TX / 16) /* at most, for frames that wait; the kernel takes 16 to 32 at a time */
#define QUEUE    0
#define WAIT_NS  UINT64_C(1000000)
#define KEYS_MAX 65536
#define TRIES    10

/* One side writes `producer`, the other one `consumer`. */
struct ring {
	uint8_t *map;
	size_t map_len;
	uint32_t *producer, *consumer, *flags;
	void *descs; /* of struct xdp_desc, or of chunks' addresses */
	uint32_t mask;
};

struct xdp {
	struct packet *packet;
	struct packet_config config; /* but its name */
	struct loop_source source;
	struct loop_timer timer; /* while frames wait to leave, or for room */
	int fd, xsks, keys, program, link;
	uint8_t *chunks;
	struct ring fill, rx, tx, done;
	uint64_t spare[TX]; /* chunks of frames to be sent that are free */
	unsigned nspare;
	bool full;     /* some did not find one, and want to know when there is */
	bool down;     /* nothing could leave when that was last tried */
	uint64_t lost; /* that were told */
};

/* ---- The program ---- */

static long bpf(int cmd, union bpf_attr *attr)
{
	return syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

static int create_map(int *out, uint32_t type, uint32_t value_size, uint32_t entries,
		      uint32_t flags)
{
	union bpf_attr attr = {.map_type = type,
			       .key_size = 4,
			       .value_size = value_size,
			       .max_entries = entries,
			       .map_flags = flags};

	*out = (int)bpf(BPF_MAP_CREATE, &attr);
	return *out < 0 ? -errno : 0;
}

static int put(int map, const void *key, const void *value)
{
	union bpf_attr attr = {
		.map_fd = (uint32_t)map, .key = (uintptr_t)key, .value = (uintptr_t)value};

	return bpf(BPF_MAP_UPDATE_ELEM, &attr) == 0 ? 0 : -errno;
}

#define INSN(...)      ((struct bpf_insn){__VA_ARGS__})
#define COPY(dst, src) INSN(.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = (dst), .src_reg = (src))
#define ADD(dst, n)    INSN(.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = (dst), .imm = (n))
#define AND(dst, n)    INSN(.code = BPF_ALU64 | BPF_AND | BPF_K, .dst_reg = (dst), .imm = (n))
#define SET(dst, n)    INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (dst), .imm = (n))
#define LOAD(size, dst, src, at)                                                     \
	INSN(.code = BPF_LDX | BPF_MEM | (size), .dst_reg = (dst), .src_reg = (src), \
	     .off = (int16_t)(at))
#define STORE(size, dst, at, src)                                                    \
	INSN(.code = BPF_STX | BPF_MEM | (size), .dst_reg = (dst), .src_reg = (src), \
	     .off = (int16_t)(at))
#define CALL(function) INSN(.code = BPF_JMP | BPF_CALL, .imm = (function))
#define EXIT           INSN(.code = BPF_JMP | BPF_EXIT)
/* Two instructions. */
#define MAP(dst, map)                                                                           \
	INSN(.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = (dst), .src_reg = BPF_PSEUDO_MAP_FD, \
	     .imm = (map)),                                                                     \
		INSN(0)
/* To the two instructions that pass the frame on. */
#define PASS_AT 33
#define PASS_IF(op, dst, src, here)                                              \
	INSN(.code = BPF_JMP | (op) | BPF_X, .dst_reg = (dst), .src_reg = (src), \
	     .off = PASS_AT - 1 - (here))
#define PASS_IF_NOT(dst, n, here)                                               \
	INSN(.code = BPF_JMP32 | BPF_JNE | BPF_K, .dst_reg = (dst), .imm = (n), \
	     .off = PASS_AT - 1 - (here))
#define PASS_IF_NULL(dst, here) \
	INSN(.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = (dst), .off = PASS_AT - 1 - (here))

/* Frames to our address, of the type, without the masked bits, with a key of ours, that fit: to the socket.
 * All others: on their way, since what is said to everybody is heard by everybody, and others may serve by
 * the same interface. The program, or -errno. */
static int load_program(const struct xdp *x)
{
	static const char license[] = "BSD";
	const struct packet_config *config = &x->config;
	const uint32_t end = config->key_at + sizeof(uint32_t);
	int32_t mac_head, key_mask;
	uint16_t mac_tail;

	memcpy(&mac_head, x->packet->mac, sizeof(mac_head));
	memcpy(&mac_tail, x->packet->mac + sizeof(mac_head), sizeof(mac_tail));
	memcpy(&key_mask, (const uint8_t[]){0xff, 0xff, 0xff, 0}, sizeof(key_mask));
	CHECK(config->mask_at < end);
	const struct bpf_insn code[] = {
		/*  0 */ LOAD(BPF_W, 2, 1, offsetof(struct xdp_md, data)),
		/*  1 */ LOAD(BPF_W, 3, 1, offsetof(struct xdp_md, data_end)),
		/*  2 */ COPY(4, 2),
		/*  3 */ ADD(4, ROOM + 1),
		/*  4 */ PASS_IF(BPF_JLE, 4, 3, 4),
		/*  5 */ COPY(4, 2),
		/*  6 */ ADD(4, end),
		/*  7 */ PASS_IF(BPF_JGT, 4, 3, 7),
		/*  8 */ LOAD(BPF_H, 5, 2, 12),
		/*  9 */ PASS_IF_NOT(5, htons(config->ethertype), 9),
		/* 10 */ LOAD(BPF_B, 5, 2, config->mask_at),
		/* 11 */ AND(5, config->mask_bits),
		/* 12 */ PASS_IF_NOT(5, config->mask_value, 12),
		/* 13 */ LOAD(BPF_W, 5, 2, 0),
		/* 14 */ PASS_IF_NOT(5, mac_head, 14),
		/* 15 */ LOAD(BPF_H, 5, 2, sizeof(mac_head)),
		/* 16 */ PASS_IF_NOT(5, mac_tail, 16),
		/* 17 */ LOAD(BPF_W, 5, 2, config->key_at),
		/* 18 */ AND(5, key_mask),
		/* 19 */ STORE(BPF_W, 10, -4, 5),
		/* 20 */ COPY(6, 1),
		/* 21 */ COPY(2, 10),
		/* 22 */ ADD(2, -4),
		/* 23 */ MAP(1, x->keys),
		/* 25 */ CALL(BPF_FUNC_map_lookup_elem),
		/* 26 */ PASS_IF_NULL(0, 26),
		/* 27 */ LOAD(BPF_W, 2, 6, offsetof(struct xdp_md, rx_queue_index)),
		/* 28 */ MAP(1, x->xsks),
		/* 30 */ SET(3, XDP_PASS),
		/* 31 */ CALL(BPF_FUNC_redirect_map),
		/* 32 */ EXIT,
		/* 33 */ SET(0, XDP_PASS),
		/* 34 */ EXIT,
	};
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_XDP,
			       .insns = (uintptr_t)code,
			       .insn_cnt = ARRAY_LEN(code),
			       .license = (uintptr_t)license};
	int program;
	unsigned tries = 0;

	/* The kernel breaks off its look at a program when something waits for the thread. */
	do
		program = (int)bpf(BPF_PROG_LOAD, &attr);
	while (program < 0 && errno == EAGAIN && ++tries < TRIES);
	return program < 0 ? -errno : program;
}

/* By the driver, or else by what all drivers have in common. It ends with the descriptor. */
static int attach_program(struct xdp *x, int index)
{
	static const uint32_t modes[] = {XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE};

	for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
		union bpf_attr attr = {.link_create = {.prog_fd = (uint32_t)x->program,
						       .target_ifindex = (uint32_t)index,
						       .attach_type = BPF_XDP,
						       .flags = modes[i]}};

		x->link = (int)bpf(BPF_LINK_CREATE, &attr);
		if (x->link >= 0)
			return 0;
	}
	return -errno;
}

static int replace_program(struct xdp *x)
{
	const int program = load_program(x);
	union bpf_attr attr = {
		.link_update = {.link_fd = (uint32_t)x->link, .new_prog_fd = (uint32_t)program}};
	int err;

	if (program < 0)
		return program;
	err = bpf(BPF_LINK_UPDATE, &attr) == 0 ? 0 : -errno;
	if (err != 0) {
		close(program);
		return err;
	}
	close(x->program);
	x->program = program;
	return 0;
}

/* ---- Memory and rings ---- */

static int register_memory(struct xdp *x)
{
	const int bytes = TX * CHUNK;
	struct xdp_umem_reg reg = {.len = CHUNKS * CHUNK, .chunk_size = CHUNK};
	void *at = mmap(NULL, reg.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		return -ENOMEM;
	x->chunks = at;
	/* All that may be on its way, as far as the system allows. */
	(void)setsockopt(x->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	reg.addr = (uintptr_t)at;
	return setsockopt(x->fd, SOL_XDP, XDP_UMEM_REG, &reg, sizeof(reg)) == 0 ? 0 : -errno;
}

static int ring_open(const struct xdp *x, struct ring *r, int option, uint32_t size,
		     const struct xdp_ring_offset *at, size_t desc_len, uint64_t page)
{
	void *map;

	if (setsockopt(x->fd, SOL_XDP, option, &size, sizeof(size)) != 0)
		return -errno;
	r->map_len = at->desc + size * desc_len;
	map = mmap(NULL, r->map_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, x->fd,
		   (off_t)page);
	if (map == MAP_FAILED)
		return -errno;
	r->map = map;
	r->producer = (uint32_t *)(void *)(r->map + at->producer);
	r->consumer = (uint32_t *)(void *)(r->map + at->consumer);
	r->flags = (uint32_t *)(void *)(r->map + at->flags);
	r->descs = r->map + at->desc;
	r->mask = size - 1;
	return 0;
}

/* What the other side has written may be read; what was written here may be read by it. */
static uint32_t theirs(const uint32_t *at)
{
	return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void ours(uint32_t *at, uint32_t value)
{
	__atomic_store_n(at, value, __ATOMIC_RELEASE);
}

static uint64_t *address_at(const struct ring *r, uint32_t i)
{
	return (uint64_t *)r->descs + (i & r->mask);
}

static struct xdp_desc *desc_at(const struct ring *r, uint32_t i)
{
	return (struct xdp_desc *)r->descs + (i & r->mask);
}

static int open_rings(struct xdp *x)
{
	struct xdp_mmap_offsets at;
	socklen_t len = sizeof(at);
	int err;

	if (getsockopt(x->fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &len) != 0)
		return -errno;
	if (len != sizeof(at))
		return -EOPNOTSUPP; /* of before Linux 5.4 */
	err = ring_open(x, &x->fill, XDP_UMEM_FILL_RING, RX, &at.fr, sizeof(uint64_t),
			XDP_UMEM_PGOFF_FILL_RING);
	if (err == 0)
		err = ring_open(x, &x->done, XDP_UMEM_COMPLETION_RING, TX, &at.cr, sizeof(uint64_t),
				XDP_UMEM_PGOFF_COMPLETION_RING);
	if (err == 0)
		err = ring_open(x, &x->rx, XDP_RX_RING, RX, &at.rx, sizeof(struct xdp_desc),
				XDP_PGOFF_RX_RING);
	if (err == 0)
		err = ring_open(x, &x->tx, XDP_TX_RING, TX, &at.tx, sizeof(struct xdp_desc),
				XDP_PGOFF_TX_RING);
	return err;
}

static void share_out_chunks(struct xdp *x)
{
	for (uint32_t i = 0; i < RX; i++)
		*address_at(&x->fill, i) = i * CHUNK;
	ours(x->fill.producer, RX);
	for (uint32_t i = 0; i < TX; i++)
		x->spare[x->nspare++] = (RX + i) * CHUNK;
}

static void ring_close(struct ring *r)
{
	if (r->map != NULL)
		munmap(r->map, r->map_len);
}

/* ---- Life ---- */

static void ready(struct loop_source *src, uint32_t epoll_events)
{
	struct packet *p = container_of(src, struct xdp, source)->packet;

	if ((p->wanted & STREAM_IN) != 0)
		p->ready(p, STREAM_IN);
}

static void look_again(struct loop_timer *timer);

static int bind_to(const struct xdp *x, int index)
{
	const struct sockaddr_xdp addr = {.sxdp_family = AF_XDP,
					  .sxdp_flags = XDP_COPY | XDP_USE_NEED_WAKEUP,
					  .sxdp_ifindex = (uint32_t)index,
					  .sxdp_queue_id = QUEUE};

	return bind(x->fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 ? 0 : -errno;
}

/* The program last: then frames come. */
static int set_up(struct xdp *x, int index)
{
	const uint32_t queue = QUEUE;
	int err;

	x->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (x->fd < 0)
		return -errno;
	err = register_memory(x);
	if (err == 0)
		err = open_rings(x);
	if (err != 0)
		return err;
	share_out_chunks(x);
	err = bind_to(x, index);
	if (err == 0)
		err = create_map(&x->keys, BPF_MAP_TYPE_HASH, 1, KEYS_MAX, BPF_F_NO_PREALLOC);
	if (err == 0)
		err = create_map(&x->xsks, BPF_MAP_TYPE_XSKMAP, sizeof(int), 1, 0);
	if (err == 0)
		err = put(x->xsks, &queue, &x->fd);
	if (err == 0)
		err = x->program = load_program(x);
	if (err >= 0)
		err = loop_watch(x->packet->loop, x->fd, &x->source, 0);
	if (err == 0)
		err = attach_program(x, index);
	return err;
}

int xdp_open(struct xdp **out, struct packet *p, int index, const struct packet_config *config)
{
	struct xdp *x = calloc(1, sizeof(*x));
	int err;

	if (x == NULL)
		return -ENOMEM;
	x->packet = p;
	x->config = *config;
	x->config.interface = NULL;
	x->source.ready = ready;
	loop_timer_init(&x->timer, p->loop, look_again);
	x->fd = x->xsks = x->keys = x->program = x->link = -1;
	err = set_up(x, index);
	if (err != 0) {
		xdp_close(x);
		return err;
	}
	*out = x;
	return 0;
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

void xdp_close(struct xdp *x)
{
	if (x == NULL)
		return;
	loop_timer_stop(&x->timer);
	if (x->fd >= 0)
		loop_unwatch(x->packet->loop, x->fd, &x->source);
	close_if_open(x->link);
	close_if_open(x->program);
	close_if_open(x->xsks);
	close_if_open(x->keys);
	close_if_open(x->fd);
	ring_close(&x->fill);
	ring_close(&x->rx);
	ring_close(&x->tx);
	ring_close(&x->done);
	if (x->chunks != NULL)
		munmap(x->chunks, CHUNKS * CHUNK);
	free(x);
}

int xdp_want(struct xdp *x, unsigned wanted)
{
	return loop_rewatch(x->packet->loop, x->fd, &x->source, to_epoll(wanted & STREAM_IN));
}

int xdp_add_key(struct xdp *x, const uint8_t key[PACKET_KEY_LEN])
{
	uint8_t whole[sizeof(uint32_t)] = {0}, value = 1;

	memcpy(whole, key, PACKET_KEY_LEN);
	return put(x->keys, whole, &value);
}

int xdp_follow_address(struct xdp *x)
{
	return replace_program(x);
}

/* ---- Frames ---- */

unsigned xdp_recv(struct xdp *x, unsigned n)
{
	uint32_t at = *x->rx.consumer, free_at = *x->fill.producer;
	const uint32_t end = theirs(x->rx.producer);
	unsigned done = 0;

	for (; at != end && done < n; at++, done++) {
		const struct xdp_desc *d = desc_at(&x->rx, at);

		x->packet->frame(x->packet, x->chunks + d->addr, d->len);
		*address_at(&x->fill, free_at++) = align_down(d->addr, CHUNK);
	}
	ours(x->rx.consumer, at);
	ours(x->fill.producer, free_at);
	return done;
}

uint64_t xdp_lost(struct xdp *x)
{
	struct xdp_statistics now = {0};
	socklen_t len = sizeof(now);
	const uint64_t told = x->lost;

	if (getsockopt(x->fd, SOL_XDP, XDP_STATISTICS, &now, &len) != 0)
		return 0;
	x->lost = now.rx_dropped + now.rx_ring_full;
	return x->lost - told;
}

bool xdp_takes(uint32_t len)
{
	return len <= ROOM;
}

static bool waits(const struct xdp *x)
{
	return theirs(x->tx.consumer) != *x->tx.producer;
}

/* What waits does not leave when the link is up again, when it would be long out of date: it goes to ourselves,
 * which any switch drops, and is of no type. */
static void blank(const struct xdp *x)
{
	for (uint32_t at = theirs(x->tx.consumer); at != *x->tx.producer; at++) {
		uint8_t *frame = x->chunks + desc_at(&x->tx, at)->addr;

		memset(frame, 0, ETH_HLEN);
		memcpy(frame, x->packet->mac, PACKET_MAC_LEN);
		memcpy(frame + PACKET_MAC_LEN, x->packet->mac, PACKET_MAC_LEN);
	}
}

/* A few leave, if there are any. -errno: none ever does. */
static int push(const struct xdp *x)
{
	if (sendto(x->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0 || errno == EAGAIN ||
	    errno == EBUSY || errno == EINTR)
		return 0;
	return -errno;
}

/* They leave in order. 0, though some may still wait, or -errno. */
static int kick(struct xdp *x)
{
	int err = 0;

	for (unsigned i = 0; i < KICKS && waits(x) && err == 0; i++)
		err = push(x);
	x->down = err != 0;
	if (x->down)
		blank(x);
	return err;
}

static void take_back(struct xdp *x)
{
	uint32_t at = *x->done.consumer;
	const uint32_t end = theirs(x->done.producer);

	for (; at != end; at++)
		x->spare[x->nspare++] = *address_at(&x->done, at);
	ours(x->done.consumer, at);
}

/* The kernel does not tell when it has sent them. */
static void look_later(struct xdp *x)
{
	if ((x->full || waits(x)) && !x->down && !loop_timer_running(&x->timer))
		(void)loop_timer_start(&x->timer, WAIT_NS);
}

static void look_again(struct loop_timer *timer)
{
	struct xdp *x = container_of(timer, struct xdp, timer);
	struct packet *p = x->packet;
	bool tell;

	(void)kick(x);
	take_back(x);
	tell = x->full && (x->nspare > 0 || x->down);
	x->full = x->full && !tell;
	look_later(x);
	if (tell && (p->wanted & STREAM_OUT) != 0)
		p->ready(p, STREAM_OUT);
}

static unsigned enqueue(struct xdp *x, const struct packet_frame *frames, unsigned n)
{
	uint32_t at = *x->tx.producer;
	unsigned i;

	for (i = 0; i < n && x->nspare > 0; i++, at++) {
		const uint64_t chunk = x->spare[--x->nspare];

		memcpy(x->chunks + chunk, frames[i].data, frames[i].len);
		*desc_at(&x->tx, at) = (struct xdp_desc){.addr = chunk, .len = frames[i].len};
	}
	ours(x->tx.producer, at);
	return i;
}

int xdp_send(struct xdp *x, const struct packet_frame *frames, unsigned n)
{
	unsigned queued;
	int err = x->down ? push(x) : 0;

	if (err != 0)
		return err;
	take_back(x);
	queued = enqueue(x, frames, n);
	x->full = queued == 0;
	err = kick(x);
	look_later(x);
	if (err != 0)
		return err;
	return queued > 0 ? (int)queued : -EAGAIN;
}
