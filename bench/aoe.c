/*
 * spindle-aoe-load: an ATA over Ethernet load client. Keeps a window of frames in flight at each of some
 * disks on one interface, one thread, and reports rates, latencies and what the servers' processes spent.
 * It tags as Linux does: 15 bits that count a disk's frames, 16 bits of time.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/client.h"
#include "bench/figures.h"

/* AoEr11 2 and 3, as far as it goes here. */
enum {
	AOE_ETHERTYPE = 0x88a2,
	AOE_MAC_LEN = 6,
	AOE_FRAME_MIN = 60,
	AOE_SECTOR = 512,
	AOE_FLAGS_AT = 14,
	AOE_REQUEST = 0x10, /* version 1 */
	AOE_RESPONSE = 0x08,
	AOE_ERROR = 0x04,
	AOE_ATA = 0,
	AOE_QUERY = 1,
	AOE_ATA_EXTENDED = 0x40,
	AOE_ATA_WRITE = 0x01,
	ATA_READ_EXT = 0x24,
	ATA_WRITE_EXT = 0x34,
	ATA_FAILED = 0xa9, /* BSY, DF, DRQ, ERR */
};

struct aoe_head {
	uint8_t to[AOE_MAC_LEN], from[AOE_MAC_LEN];
	be16 ethertype;
	uint8_t flags, error;
	be16 shelf;
	uint8_t slot, command, tag[4];
};

struct aoe_ata {
	uint8_t flags, feature, count, command, lba[6], reserved[2];
};

struct aoe_query {
	be16 buffers, firmware;
	uint8_t sectors, command;
	be16 len;
};

#define AOE_ATA_HEAD   (sizeof(struct aoe_head) + sizeof(struct aoe_ata))
#define AOE_QUERY_HEAD (sizeof(struct aoe_head) + sizeof(struct aoe_query))

#define BATCH       64
#define DISKS_MAX   64
#define WINDOW_MAX  256
#define SECTORS_MAX 128
#define TAGS        0x8000
#define PATIENCE_NS UINT64_C(200000000) /* then it is asked once more */
#define LOOK_NS     UINT64_C(20000000)
#define GIVE_UP_NS  UINT64_C(3000000000) /* nobody is there */
#define RX_BYTES    64                   /* what is looked at; the rest stays in the kernel */

enum workload { READ, WRITE, RANDREAD, RANDWRITE };

static const char *const workloads[] = {"read", "write", "randread", "randwrite", NULL};

struct options {
	const char *interface;
	struct opt_strings pids;
	unsigned workload;
	uint64_t shelf, slot, disks, window, sectors, region, time_ms, warmup_ms;
	bool json;
};

#define FIELD(f) offsetof(struct options, f)

static const struct opt option_table[] = {
	{.name = "interface",
	 .kind = OPT_STRING,
	 .offset = FIELD(interface),
	 .arg = "IF",
	 .def = "",
	 .help = "where the disks are"},
	{.name = "shelf",
	 .kind = OPT_UINT,
	 .offset = FIELD(shelf),
	 .max = 65534,
	 .def = "1",
	 .help = "of the disks"},
	{.name = "slot",
	 .kind = OPT_UINT,
	 .offset = FIELD(slot),
	 .max = 254,
	 .def = "0",
	 .help = "of the first disk"},
	{.name = "disks",
	 .kind = OPT_UINT,
	 .offset = FIELD(disks),
	 .min = 1,
	 .max = DISKS_MAX,
	 .def = "1",
	 .help = "in slots that follow each other"},
	{.name = "window",
	 .kind = OPT_UINT,
	 .offset = FIELD(window),
	 .min = 1,
	 .max = WINDOW_MAX,
	 .def = "16",
	 .help = "frames in flight a disk"},
	{.name = "sectors",
	 .kind = OPT_UINT,
	 .offset = FIELD(sectors),
	 .max = SECTORS_MAX,
	 .help = "of a frame (0: as many as the disk says)"},
	{.name = "workload",
	 .kind = OPT_CHOICE,
	 .offset = FIELD(workload),
	 .choices = workloads,
	 .def = "randread",
	 .help = "what to do"},
	{.name = "region",
	 .kind = OPT_SIZE,
	 .offset = FIELD(region),
	 .min = 1024 * 1024,
	 .def = "1G",
	 .help = "bytes of a disk that are used"},
	{.name = "time",
	 .kind = OPT_DURATION,
	 .offset = FIELD(time_ms),
	 .def = "5s",
	 .help = "how long to measure"},
	{.name = "warmup",
	 .kind = OPT_DURATION,
	 .offset = FIELD(warmup_ms),
	 .def = "500ms",
	 .help = "run uncounted before that"},
	{.name = "pid",
	 .kind = OPT_LIST,
	 .offset = FIELD(pids),
	 .arg = "PID",
	 .help = "a server's process: report its CPU time; repeatable"},
	{.name = "json",
	 .kind = OPT_FLAG,
	 .offset = FIELD(json),
	 .help = "report one line of JSON"},
	{0},
};

struct frame {
	struct aoe_head head;
	struct aoe_ata ata;
	uint8_t data[SECTORS_MAX * AOE_SECTOR];
};

struct request {
	struct frame frame;
	struct disk *disk;
	struct request *next; /* to be sent */
	uint32_t len;
	uint64_t began_ns, sent_ns;
	uint16_t tag;
	bool in_flight;
};

struct disk {
	uint8_t mac[AOE_MAC_LEN];
	uint8_t slot;
	bool found;
	unsigned sectors;
	uint64_t next_lba;
	uint16_t last_tag;
	struct request *of_tag[TAGS];
	struct request *requests;
};

struct load {
	struct options o;
	struct figures figures;
	struct disk *disks;
	struct request *first, **last; /* to be sent */
	uint64_t now_ns, looked_ns, random;
	uint8_t mac[AOE_MAC_LEN];
	int fd;
	bool counting;
};

/* ---- Frames ---- */

static void queue(struct load *l, struct request *r)
{
	r->next = NULL;
	*l->last = r;
	l->last = &r->next;
}

static void give_tag(struct load *l, struct request *r)
{
	struct disk *d = r->disk;
	const uint16_t jiffies = low_u16(l->now_ns / 4000000);

	d->of_tag[r->tag] = NULL;
	r->tag = d->last_tag = low_u16((d->last_tag + 1u) % TAGS);
	d->of_tag[r->tag] = r;
	store_be32(r->frame.head.tag, (uint32_t)r->tag << 16 | jiffies);
}

static bool writes(const struct load *l)
{
	return l->o.workload == WRITE || l->o.workload == RANDWRITE;
}

static uint64_t next_lba(struct load *l, struct disk *d)
{
	const uint64_t places = l->o.region / AOE_SECTOR / d->sectors;

	if (l->o.workload == RANDREAD || l->o.workload == RANDWRITE)
		return random_next(&l->random) % places * d->sectors;
	return d->next_lba++ % places * d->sectors;
}

static void ask(struct load *l, struct request *r)
{
	uint64_t lba = next_lba(l, r->disk);

	for (unsigned i = 0; i < sizeof(r->frame.ata.lba); i++, lba >>= 8)
		r->frame.ata.lba[i] = low_u8(lba);
	r->began_ns = l->now_ns;
	give_tag(l, r);
	queue(l, r);
}

static void prepare(struct load *l, struct disk *d, struct request *r)
{
	struct aoe_head *h = &r->frame.head;

	r->disk = d;
	r->len = (uint32_t)(AOE_ATA_HEAD + (writes(l) ? d->sectors * AOE_SECTOR : 0));
	r->len = (uint32_t)max_u64(r->len, AOE_FRAME_MIN);
	*h = (struct aoe_head){.ethertype = be16_of(AOE_ETHERTYPE),
			       .flags = AOE_REQUEST,
			       .shelf = be16_of(low_u16(l->o.shelf)),
			       .slot = d->slot,
			       .command = AOE_ATA};
	memcpy(h->to, d->mac, sizeof(h->to));
	memcpy(h->from, l->mac, sizeof(h->from));
	r->frame.ata = (struct aoe_ata){
		.flags = low_u8(AOE_ATA_EXTENDED | (writes(l) ? AOE_ATA_WRITE : 0)),
		.count = low_u8(d->sectors),
		.command = writes(l) ? ATA_WRITE_EXT : ATA_READ_EXT};
	memset(r->frame.data, 0x5a, sizeof(r->frame.data));
}

static int send_queued(struct load *l)
{
	while (l->first != NULL) {
		struct mmsghdr msgs[BATCH];
		struct iovec iov[BATCH];
		struct request *r = l->first;
		int n = 0, sent;

		for (; r != NULL && n < BATCH; r = r->next, n++) {
			iov[n] = (struct iovec){.iov_base = &r->frame, .iov_len = r->len};
			msgs[n] =
				(struct mmsghdr){.msg_hdr = {.msg_iov = &iov[n], .msg_iovlen = 1}};
		}
		sent = sendmmsg(l->fd, msgs, (unsigned)n, MSG_DONTWAIT);
		if (sent < 0)
			return errno == EAGAIN || errno == ENOBUFS ? 0 : -errno;
		for (; sent > 0; sent--) {
			l->first->sent_ns = l->now_ns;
			l->first->in_flight = true;
			l->first = l->first->next;
		}
	}
	l->last = &l->first;
	return 0;
}

static struct disk *disk_of(struct load *l, const struct aoe_head *h)
{
	const unsigned i = h->slot - (unsigned)l->o.slot;

	return be16_get(h->shelf) == l->o.shelf && i < l->o.disks ? &l->disks[i] : NULL;
}

static void answered(struct load *l, const struct frame *f, uint32_t len)
{
	struct disk *d = disk_of(l, &f->head);
	struct request *r = d != NULL ? d->of_tag[load_be16(f->head.tag) % TAGS] : NULL;
	uint32_t want;

	if (r == NULL || !r->in_flight || memcmp(r->frame.head.tag, f->head.tag, 4) != 0)
		return;
	want = (uint32_t)AOE_ATA_HEAD + (writes(l) ? 0 : d->sectors * AOE_SECTOR);
	if ((f->head.flags & AOE_ERROR) != 0 || (f->ata.command & ATA_FAILED) != 0 || len < want) {
		if (l->figures.errors++ == 0)
			fprintf(stderr, "flags %02x error %02x status %02x, %u bytes\n",
				f->head.flags, f->head.error, f->ata.command, len);
	}
	r->in_flight = false;
	if (l->counting)
		figures_count(&l->figures, (uint64_t)d->sectors * AOE_SECTOR,
			      l->now_ns - r->began_ns);
	ask(l, r);
}

/* Frames of requests that came are looked at; how many. */
static int receive(struct load *l, void (*take)(struct load *, const struct frame *, uint32_t))
{
	static _Alignas(8) uint8_t room[BATCH][RX_BYTES];
	struct mmsghdr msgs[BATCH];
	struct iovec iov[BATCH];
	int n;

	for (unsigned i = 0; i < BATCH; i++) {
		iov[i] = (struct iovec){.iov_base = room[i], .iov_len = RX_BYTES};
		msgs[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &iov[i], .msg_iovlen = 1}};
	}
	n = recvmmsg(l->fd, msgs, BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	l->now_ns = clock_ns(CLOCK_MONOTONIC);
	for (int i = 0; i < n; i++)
		if (msgs[i].msg_len >= AOE_QUERY_HEAD)
			take(l, (const struct frame *)(const void *)room[i], msgs[i].msg_len);
	return n;
}

static void ask_again(struct load *l)
{
	if (l->now_ns < l->looked_ns + LOOK_NS)
		return;
	l->looked_ns = l->now_ns;
	for (uint64_t i = 0; i < l->o.disks * l->o.window; i++) {
		struct request *r = &l->disks[i / l->o.window].requests[i % l->o.window];

		if (!r->in_flight || l->now_ns < r->sent_ns + PATIENCE_NS)
			continue;
		r->in_flight = false;
		l->figures.refused += l->counting;
		give_tag(l, r);
		queue(l, r);
	}
}

static int run_until(struct load *l, uint64_t until_ns)
{
	while (l->now_ns < until_ns) {
		int n = receive(l, answered), err;

		if (n < 0)
			return n;
		if (n == 0) {
			struct pollfd p = {.fd = l->fd, .events = POLLIN};

			poll(&p, 1, 10);
			l->now_ns = clock_ns(CLOCK_MONOTONIC);
		}
		ask_again(l);
		err = send_queued(l);
		if (err < 0)
			return err;
	}
	return 0;
}

/* ---- Beginning and end ---- */

static void found(struct load *l, const struct frame *f, uint32_t len)
{
	const struct aoe_query *q = (const void *)&f->ata;
	struct disk *d = disk_of(l, &f->head);

	if (d == NULL || f->head.command != AOE_QUERY)
		return;
	memcpy(d->mac, f->head.from, sizeof(d->mac));
	d->sectors = l->o.sectors != 0 ? (unsigned)l->o.sectors : q->sectors != 0 ? q->sectors : 2;
	d->sectors = (unsigned)min_u64(d->sectors, SECTORS_MAX);
	d->found = true;
}

static int send_query(struct load *l)
{
	struct {
		struct aoe_head head;
		struct aoe_query query;
		uint8_t padding[AOE_FRAME_MIN - AOE_QUERY_HEAD];
	} ask = {.head = {.ethertype = be16_of(AOE_ETHERTYPE),
			  .flags = AOE_REQUEST,
			  .shelf = be16_of(0xffff),
			  .slot = 0xff,
			  .command = AOE_QUERY}};

	memset(ask.head.to, 0xff, sizeof(ask.head.to));
	memcpy(ask.head.from, l->mac, sizeof(ask.head.from));
	return send(l->fd, &ask, sizeof(ask), 0) < 0 ? -errno : 0;
}

static bool all_found(const struct load *l)
{
	for (uint64_t i = 0; i < l->o.disks; i++)
		if (!l->disks[i].found)
			return false;
	return true;
}

static int find_disks(struct load *l, struct diag *d)
{
	const uint64_t began = clock_ns(CLOCK_MONOTONIC);

	while (!all_found(l)) {
		struct pollfd p = {.fd = l->fd, .events = POLLIN};
		int err = send_query(l);

		if (clock_ns(CLOCK_MONOTONIC) > began + GIVE_UP_NS)
			return diag_set(d, -ENODEV, "not all disks are there");
		if (err < 0)
			return diag_set(d, err, "cannot send: %s", strerror(-err));
		poll(&p, 1, 100);
		while ((err = receive(l, found)) > 0)
			;
	}
	return 0;
}

/* Answers only. */
static int attach_filter(int fd)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, AOE_FLAGS_AT),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, AOE_RESPONSE, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
	};
	const struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

static int open_interface(struct load *l, struct diag *d)
{
	const int bytes = 32 * MiB;
	struct ifreq r = {0};
	struct sockaddr_ll addr = {.sll_family = AF_PACKET, .sll_protocol = htons(AOE_ETHERTYPE)};

	if (!str_copy(r.ifr_name, sizeof(r.ifr_name), l->o.interface))
		return diag_set(d, -ENODEV, "no such interface");
	l->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (l->fd < 0 || attach_filter(l->fd) < 0 || ioctl(l->fd, SIOCGIFHWADDR, &r) < 0)
		return diag_set(d, -errno, "%s: %s", l->o.interface, strerror(errno));
	memcpy(l->mac, r.ifr_hwaddr.sa_data, sizeof(l->mac));
	(void)setsockopt(l->fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
	(void)setsockopt(l->fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
	addr.sll_ifindex = (int)if_nametoindex(l->o.interface);
	if (bind(l->fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return diag_set(d, -errno, "%s: %s", l->o.interface, strerror(errno));
	return 0;
}

static int set_up(struct load *l, struct diag *d)
{
	int err = open_interface(l, d);

	l->disks = calloc(l->o.disks, sizeof(*l->disks));
	if (err < 0 || l->disks == NULL)
		return err < 0 ? err : diag_set(d, -ENOMEM, "out of memory");
	for (uint64_t i = 0; i < l->o.disks; i++) {
		l->disks[i].slot = low_u8(l->o.slot + i);
		l->disks[i].requests = calloc(l->o.window, sizeof(struct request));
		if (l->disks[i].requests == NULL)
			return diag_set(d, -ENOMEM, "out of memory");
	}
	return find_disks(l, d);
}

static int measure(struct load *l)
{
	int err;

	l->now_ns = l->looked_ns = clock_ns(CLOCK_MONOTONIC);
	for (uint64_t i = 0; i < l->o.disks; i++)
		for (uint64_t k = 0; k < l->o.window; k++) {
			prepare(l, &l->disks[i], &l->disks[i].requests[k]);
			ask(l, &l->disks[i].requests[k]);
		}
	err = send_queued(l);
	if (err == 0)
		err = run_until(l, l->now_ns + l->o.warmup_ms * 1000000);
	figures_begin(&l->figures);
	l->counting = true;
	if (err == 0)
		err = run_until(l, l->now_ns + l->o.time_ms * 1000000);
	figures_end(&l->figures);
	return err;
}

static int read_pids(struct load *l, struct diag *d)
{
	for (size_t i = 0; i < l->o.pids.n; i++)
		if (i == FIGURES_SERVERS || parse_u64(l->o.pids.v[i], &l->figures.servers[i]) != 0)
			return diag_set(d, -EINVAL, "--pid %s", l->o.pids.v[i]);
	l->figures.nservers = l->o.pids.n;
	return 0;
}

static void tear_down(struct load *l)
{
	for (uint64_t i = 0; l->disks != NULL && i < l->o.disks; i++)
		free(l->disks[i].requests);
	free(l->disks);
	close(l->fd);
	opt_fini(option_table, &l->o);
}

int main(int argc, char **argv)
{
	struct load l = {.fd = -1, .random = 88172645463325252u};
	struct diag d;
	char text[4096];
	int err = client_options("spindle-aoe-load", option_table, &l.o, argc, argv);

	if (err >= 0)
		return err;
	l.last = &l.first;
	diag_init(&d);
	err = read_pids(&l, &d);
	if (err == 0)
		err = set_up(&l, &d);
	if (err < 0) {
		fprintf(stderr, "spindle-aoe-load: %s\n", diag_text(&d, text, sizeof(text)));
	} else {
		err = measure(&l);
		if (err < 0)
			fprintf(stderr, "spindle-aoe-load: %s\n", strerror(-err));
		else
			figures_print(&l.figures, l.o.json);
	}
	tear_down(&l);
	return err < 0 || l.figures.errors > 0 ? 1 : 0;
}
