/*
 * What the files of this folder share: server, session, connection, task, PDU on its way out, and
 * the functions between the files.
 *
 * Who owns what: the server, its listeners, fresh connections and the session directory belong to
 * loop 0; a session, its connection and its tasks to the session's loop. A session moves once, with
 * its first login request, and dies by a handshake: its loop says `gone` to loop 0, which forgets
 * it and answers `bye` behind everything else it has sent; the session's loop sends it back, and
 * loop 0 frees it. So no message ever names freed memory.
 *
 *   accepted -> (login.c) -> directory_admit -> [moves] -> login goes on -> directory_claim
 *            -> nexus_open -> full feature phase -> session_end -> nexus_close -> gone -> bye
 */
#ifndef SPINDLE_ISCSI_IMPL_H
#define SPINDLE_ISCSI_IMPL_H

#include "iscsi/iscsi.h"
#include "iscsi/keys.h"
#include "iscsi/proto.h"

/* ---- Limits and times ---- */

#define WINDOW            128  /* commands of a session that may be under way, at most, */
#define WINDOW_FIRST      2    /* before it has shown what it does, */
#define WINDOW_MIN        1    /* and however little memory there is */
#define SLOT_COST_MIN     4096 /* bytes: a task, and what its answer takes */
#define WINDOW_EPOCH_LOG  30   /* 2^30 ns, 1 s: who did nothing for so long counts no more */
#define IMMEDIATE_MAX     32   /* immediate commands of a session beside them */
#define TMF_MAX           8    /* task management functions of a session at a time */
#define HELD_BYTES_MAX    (512 * KiB)
#define EARLY_STRETCH     4     /* a buffer may be so much larger than what comes for sure */
#define R2T_MAX           8     /* outstanding R2Ts of a task */
#define LOGIN_REQUESTS    1024  /* PDUs of one login */
#define PLACE_MIN         16384 /* a payload of this size is read into its place */
#define RX_CHUNK          65536 /* bytes of one bulk recv */
#define RX_BULKY_CHUNK    4096  /* the same, where large payloads come */
#define RX_TURN_BYTES     (256 * KiB)
#define RX_SHORT_CHUNK    1024 /* the same, while memory is short */
#define RX_TURN_PDUS      64
#define TX_BATCH_PDUS     64
#define TX_BATCH_BYTES    (1 * MiB)
#define TX_READ_AHEAD     (1 * MiB)  /* no further read segment while more waits to be sent */
#define TX_PAUSE_BYTES    (64 * KiB) /* a peer that does not read so much is not read from, */
#define TX_PAUSE_SHORT    (2 * KiB)  /* nor one that does not read this while memory is short */
#define TX_SMALL          4096       /* an echo of so much is never refused for its client's sake */
#define TOMBSTONE_NS      (2 * UINT64_C(1000000000)) /* a reset waits so long for Data-Out */
#define LOGIN_TIMEOUT_NS  (15 * UINT64_C(1000000000))
#define TICK_NS           (2 * UINT64_C(1000000000))
#define CLOSE_TIMEOUT_NS  (10 * UINT64_C(1000000000))
#define IDLE_PING_NS      (60 * UINT64_C(1000000000))
#define PING_TIMEOUT_NS   (30 * UINT64_C(1000000000))
#define STALL_TIMEOUT_NS  (30 * UINT64_C(1000000000)) /* Data-Out, or our output, stands still; */
#define STALL_SHORT_NS    (4 * UINT64_C(1000000000))  /* the same, while others lack its memory */
#define LINGER_NS         (UINT64_C(1000000000) / 2)
#define PORTAL_GROUP      1
#define MAX_CONNECTIONS   4096
#define TASK_BUCKETS      128
#define DIRECTORY_BUCKETS 256
#define REFUSAL_LINES     10 /* of login-refused in the log, in REFUSAL_TIME_NS and a loop */
#define REFUSAL_TIME_NS   (10 * UINT64_C(1000000000))
#define POOL_PDUS         1024 /* kept for reuse, a loop */
#define POOL_TASKS        512

struct iscsi;
struct iscsi_conn;
struct iscsi_session;
struct iscsi_task;
struct login;

/* ---- PDUs on their way out (pdu.c, tx.c) ---- */

enum pdu_flags {
	PDU_STATUS = 1,       /* takes the next StatSN */
	PDU_SHOWS_STATSN = 2, /* shows the next StatSN and does not take it */
	PDU_PLAIN = 4,        /* never digested: login */
};

#define PDU_SMALL 104 /* sense data with its length prefix fits */

struct pdu_out {
	struct qnode link;
	uint8_t head[ISCSI_BHS_LEN + ISCSI_DIGEST_LEN];
	uint8_t tail[8]; /* padding and data digest */
	uint8_t head_len, tail_len, niov, flags;
	uint32_t data_len;
	struct iovec iov[SCSI_SEG_IOV];
	struct loop_buf *buf;  /* goes back when it is sent */
	struct move_in *moves; /* the segment that it carries a part of */
	uint8_t small[PDU_SMALL];
};

struct tx {
	struct queue control, ordinary; /* not begun; control goes first */
	struct queue wire;              /* numbered, in this order, and perhaps begun */
	unsigned nqueued, nwire;        /* PDUs in control and ordinary; in wire */
	size_t queued_bytes, wire_bytes;
	size_t own_bytes;                  /* what all of them take that carry no segment */
	size_t begun;                      /* bytes of the first on the wire that are sent */
	struct move_in *hold, **hold_tail; /* sent segments whose owner shall not read on yet */
	struct loop_msg flush_msg;
	bool flush_queued, flushing, blocked, close_when_sent;
	uint64_t progress_ns;
};

/* ---- Tasks ---- */

/* A data-in segment that leaves: seg is NULL when the slot is free. */
struct move_in {
	struct scsi_seg *seg;
	struct iscsi_task *task;
	struct move_in *next; /* in tx.hold */
	unsigned npdus;       /* of it, still to be sent */
	bool cancelled, held;
};

/* A data-out segment that comes. */
struct move_out {
	struct scsi_seg *seg;
	uint32_t have; /* bytes that are there, from its beginning */
	bool attached; /* it has its buffer */
};

struct r2t {
	uint32_t ttt, off, len, got, data_sn;
};

/*
 * A SCSI command. In the session's table until its response is queued; freed when its last
 * reference goes: scsi's (until finish), one a segment that moves.
 *
 *   begun -> scsi_task_run -> (moves) -> finish -> burst still coming? wait for its end
 *         -> response queued, out of the table -> last segment sent -> free
 */
struct iscsi_task {
	struct scsi_task scsi;
	struct iscsi_session *session;
	struct iscsi_conn *conn; /* allegiance (RFC 7143 4.2.5.1) */
	struct iscsi_task *hash_next;
	struct qnode link; /* in the pool, or in session.read_wait */
	unsigned refs;
	uint32_t itt;
	bool immediate, finished, listed;
	bool muted; /* a function of its session is about it: if its data must be awaited, no answer */
	/* Data-In */
	uint32_t data_sn, r2t_sn;
	struct pdu_out *last_in; /* the last Data-In while its header may still be changed */
	struct move_in in[2];
	/* Data-Out: immediate and unsolicited bytes [0, early_len), then what R2Ts ask for. */
	const uint8_t *early; /* early_buf's, or the receive buffer's while scsi_task_run runs */
	struct loop_buf *early_buf;
	uint32_t early_len, early_max, early_sn;
	bool unsolicited; /* more of it comes, until F */
	bool waits;       /* counted in conn.nwaiting */
	enum sense bad;   /* not SENSE_NONE: the data cannot be used */
	uint32_t asked;   /* bytes asked for by R2T end here */
	struct move_out out[2];
	struct loop_wait wait; /* for memory of one of `out` */
	struct r2t r2ts[R2T_MAX];
	uint8_t nout, nr2ts;
};

/* ---- PDUs that came in ---- */

struct pdu_in {
	const struct iscsi_bhs *bhs;
	const uint8_t *ahs;
	uint32_t ahs_len;
	uint8_t *data; /* NULL: a command's, thrown away, for there was no memory */
	uint32_t data_len;
	struct loop_buf *buf; /* data is its memory; who keeps it sets this to NULL */
	bool bad_digest;
};

/*
 *   HEADER: bytes are received in bulk; all whole PDUs among them are worked off, and what is left
 *           of an unfinished one is kept in `rest` until more comes
 *   PLACE:  a large payload: head and AHS are in `rest`, the payload goes straight to `place`
 *           (NULL: it is thrown away), padding and digest to `tail`, what follows in bulk again
 */
enum rx_state { RX_HEADER, RX_PLACE };

struct rx {
	enum rx_state state;
	struct loop_buf *rest;
	uint32_t rest_len;
	bool rest_is_whole; /* it was not looked at yet, because the connection had to wait */
	bool bulky;         /* the last payload was large: receive less in bulk, more in place */
	uint8_t *place, *payload; /* where the next byte goes; where the first one went */
	uint32_t payload_len;
	uint32_t place_left;
	struct loop_buf *buf; /* the payload's own memory, unless it is a Data-Out */
	uint8_t tail[8];
	uint8_t tail_len, tail_got;
	struct iscsi_task *task; /* the Data-Out's; NULL: nobody's */
	struct scsi_seg *seg;    /* whose memory `place` is, unless NULL */
};

/* ---- Connections (conn.c) ---- */

/* What comes when all is sent, before it is closed: see conn_linger(). */
enum conn_linger { LINGER_NO, LINGER_WANTED, LINGERING };

/*
 *   FRESH -> LOGIN -> WAIT (for the directory, the nexus) -> FULL -> LOGOUT
 *   any -> closed
 */
enum conn_phase { CONN_FRESH, CONN_LOGIN, CONN_WAIT, CONN_FULL, CONN_LOGOUT };

struct iscsi_conn {
	struct stream stream;
	struct iscsi *server;
	struct iscsi_loop *home; /* the loop it is on */
	struct iscsi_session *session;
	struct list link; /* in server.fresh, then in session.conns */
	enum conn_phase phase;
	bool closed, header_digest, data_digest, paused;
	bool free_later;         /* when its flush_msg has run */
	enum conn_linger linger; /* behind tx.close_when_sent */
	const char *close_why;   /* of tx.close_when_sent */
	bool leaves;             /* to session->home, as soon as the stack is unwound */
	const char *doom;        /* to be closed at the end of the turn, and why */
	uint16_t cid;
	uint32_t stat_sn, exp_stat_sn;
	uint32_t max_data; /* the largest data segment we accept now */
	struct rx rx;
	struct tx tx;
	struct login *login; /* until the full feature phase */
	struct loop_timer timer;
	uint64_t began_ns, heard_ns, data_out_ns, ping_ns;
	uint32_t ping_ttt; /* of our NOP-In that is not answered; reserved: none */
	unsigned nwaiting; /* tasks that wait for Data-Out */
	unsigned wanted;   /* stream events */
	union net_addr peer;
	struct loop_msg free_msg;
	/* While it moves. */
	int moving_fd;
	uint8_t *packed;
	uint32_t packed_len;
};

/* ---- Sessions (session.c) ---- */

/* PDUs that came before their turn (RFC 7143 4.2.2.1). */
struct held_pdu {
	struct list link;
	uint32_t cmd_sn;
	uint32_t ahs_len, data_len;
	struct iscsi_conn *conn;
	bool ignored;    /* it was aborted before its turn */
	uint8_t bytes[]; /* header, AHS, data */
};

/* A text exchange: gathered over the C bit, answered in pieces (RFC 7143 11.10). */
struct text {
	char *in, *out;
	size_t in_len, out_len, out_at;
	uint32_t itt, ttt;
};

/*
 *   LOGIN -> CLAIMING -> OPENING -> UP -> CLOSING -> GONE
 *
 * LOGIN: its leading connection negotiates. CLAIMING: the directory is asked for a TSIH, and closes
 * the connection of an older session with the same name first. OPENING: the nexus attaches. CLOSING:
 * its tasks end, which takes as long as a store takes that has one; who comes back does not wait.
 */
enum session_state {
	SESSION_LOGIN,
	SESSION_CLAIMING,
	SESSION_OPENING,
	SESSION_UP,
	SESSION_CLOSING,
	SESSION_GONE,
};

/* In this order. */
enum directory_state { DIRECTORY_PENDING, DIRECTORY_CLAIMING, DIRECTORY_GRANTED, DIRECTORY_LEFT };

enum kick { KICK_SUPERSEDED, KICK_REINSTATED, KICK_DRAIN, KICK_RESET };

struct iscsi_session {
	struct iscsi *server;
	struct iscsi_loop *home;
	enum session_state state;
	struct list conns;
	struct iscsi_params params;
	struct iscsi_target *target; /* NULL: discovery */
	struct nexus nexus;
	uint8_t isid[6];
	uint16_t tsih;
	uint32_t exp_cmd_sn, max_cmd_sn, next_ttt;
	/* The command window, window.c. */
	unsigned window;             /* commands that may be under way */
	uint32_t slot_cost;          /* bytes that come unasked with one of its commands, of late */
	uint64_t epoch;              /* it was counted in, as one that does something */
	unsigned ntasks, nimmediate; /* in the table; ntasks counts all */
	struct iscsi_task *table[TASK_BUCKETS];
	struct queue read_wait; /* tasks that start when less waits to be sent */
	struct list held;       /* struct held_pdu, by CmdSN */
	size_t held_bytes;
	struct list tmfs; /* struct iscsi_tmf */
	unsigned ntmfs;
	/* Data-Out for R2Ts up to this one, whose tasks are gone, is thrown away. */
	uint32_t tomb_ttt;
	bool has_tombs;
	struct text text;
	bool ending, draining, was_up, nexus_closed;
	bool asked;               /* to log out */
	const char *why;          /* it ended */
	struct pdu_out *farewell; /* the logout response, sent when the nexus is closed */
	struct loop_timer drain_timer;
	struct loop_msg down; /* from loop 0: the move, the answer to a claim, bye */
	struct loop_msg up;   /* to loop 0: claim, gone, free */
	int claim_err;
	/* The directory's, on loop 0. */
	struct {
		struct list all, same; /* of all sessions; in a bucket */
		enum directory_state state;
		bool kicked, departed; /* sent away; not on loop 0 any more, or there for good */
		struct loop_msg kick_msg, left_msg;
		enum kick kick;
	} dir;
};

/* ---- Authentication (chap.c) ---- */

#define CHAP_NAME_MAX   255
#define CHAP_SECRET_MIN 12 /* bytes; RFC 7143 9.2.1 wants 96 random bits */
#define CHAP_SECRET_MAX 255
#define CHAP_BINARY_MAX 1024 /* of a challenge or a response (RFC 7143 12.1.3) */
#define CHAP_DIGEST_MAX 32   /* SHA-256 and SHA3-256 */
/* At least as long as any response. */
#define CHAP_CHALLENGE_LEN CHAP_DIGEST_MAX

/* A name and its secret; strings. */
struct chap_user {
	char *name, *secret;
};

/* Who may come, and who we are. Complete before the loops run, then read by all. */
struct chap_auth {
	struct chap_user **users; /* none: nobody is asked */
	size_t nusers;
	struct chap_user *mutual; /* our own name; NULL: we do not prove who we are */
};

enum chap_step { CHAP_METHOD, CHAP_ALGORITHM, CHAP_PROOF, CHAP_DONE };

struct chap_algorithm;

/* Of one login. */
struct chap {
	const struct chap_auth *auth;
	const struct chap_algorithm *algorithm;
	enum chap_step step;
	uint8_t id, challenge[CHAP_CHALLENGE_LEN];
	const char *why;              /* it failed; for the log only */
	char user[CHAP_NAME_MAX + 1]; /* who it says it is; bytes of the wire */
};

/* ---- The server (iscsi.c) ---- */

struct iscsi_target {
	struct scsi_target *scsi;
	const char *name;
	char *alias;
};

struct iscsi_portal {
	struct iscsi *server;
	struct listener *listener;
	union net_addr addr;
};

/* What is apart on each loop. */
struct iscsi_loop {
	struct iscsi *server;
	struct loop *loop;
	uint8_t *rx_buf; /* for bulk receives, while a callback runs */
	struct queue free_pdus, free_tasks;
	unsigned nfree_pdus, nfree_tasks;
	/* Sessions that do something: in this epoch so far, and in the one before. */
	uint64_t epoch;
	unsigned nbusy, nbusy_before;
	uint64_t slot_bytes; /* for what may come unasked to each of them */
	/* Since a moment: refused logins in the log, and those that were not worth a line. */
	struct {
		uint64_t since_ns;
		unsigned told, untold;
	} refusals;
} __attribute__((aligned(64)));

#define RX_BUF_LEN (2 * RX_CHUNK + 64 * KiB)

struct directory {
	struct list all;
	struct list buckets[DIRECTORY_BUCKETS];
	unsigned *load; /* connections, a loop */
	uint16_t last_tsih;
};

struct iscsi {
	struct loop_set *set;
	const struct log *log;
	bool unsolicited; /* see iscsi_config */
	struct chap_auth auth;
	struct iscsi_loop *loops;
	unsigned nloops;
	struct iscsi_target **targets;
	size_t ntargets;
	struct iscsi_portal **portals;
	size_t nportals;
	/* On loop 0. */
	struct directory directory;
	struct list fresh; /* connections without a session */
	unsigned max_connections, nconns, nlogins;
	uint64_t full_logged_ns;
	bool stopping, stop_told;
	unsigned grace_ms;
	void (*stopped)(void *arg);
	void *stopped_arg;
	struct loop_msg stop_msg;
};

/* iscsi.c */
struct iscsi_target *iscsi_target_find(const struct iscsi *i, const char *name);
/* On loop 0. */
void iscsi_check_stopped(struct iscsi *i);

/* directory.c; on loop 0 unless said otherwise */
int directory_init(struct directory *d, unsigned nloops);
void directory_fini(struct directory *d);
/* A login request has named its session: makes one with a home, for which the connection then
 * leaves. */
enum iscsi_login_status directory_admit(struct iscsi_conn *c, struct iscsi_target *target,
					const struct iscsi_params *params,
					const struct iscsi_login *request);
/* The message that moves the session has been sent. */
void directory_departed(struct iscsi_session *s);
/* On the session's loop: asks for a TSIH; session_claimed() is the answer. */
void directory_claim(struct iscsi_session *s);
/* On the session's loop, and before `gone`: its connection is closed and its nexus closes. Another one
 * with its name may come. */
void directory_left(struct iscsi_session *s);
/* On the session's loop: it has ended; it is freed by and by. */
void directory_gone(struct iscsi_session *s);
/* On the session's loop: what held its memory there has let go. */
void directory_bye(struct iscsi_session *s);
void directory_kick_all(struct iscsi *i, enum kick kick);
/* On the session's loop: all others with its target. 0 or -ENOMEM. */
int directory_kick_others(struct iscsi_session *s, enum kick kick);

/* login.c */
/* Moves the connection to its session's loop; the last thing that is done with it here. */
void login_leave(struct iscsi_conn *c);
void login_pdu(struct iscsi_conn *c, struct pdu_in *pdu);
/* The session is open: the last response goes out. */
void login_finish(struct iscsi_conn *c);
/* Says why not; the connection ends when that is sent. */
void login_refuse(struct iscsi_conn *c, enum iscsi_login_status status);
void login_free(struct login *l);

/* chap.c */
void chap_fini(struct chap_auth *auth);
void chap_begin(struct chap *c, const struct chap_auth *auth);
/* Whoever comes has proven who it is, or is not asked. */
bool chap_done(const struct chap *c);
/* What a whole request said, after keys_negotiate(); appends the answer. `flags` are the request's.
 */
enum iscsi_login_status chap_take(struct chap *c, const struct iscsi_params *p,
				  const struct keys_ctx *ctx, uint8_t flags, struct writer *reply);
/* The algorithm of that number, NULL: not one of ours. */
const struct chap_algorithm *chap_algorithm(uint32_t number);
/* RFC 1994 4.1: what answers a challenge of at most CHAP_BINARY_MAX bytes. Its length or -EIO. */
int chap_response(const struct chap_algorithm *algorithm, uint8_t id, const char *secret,
		  const uint8_t *challenge, size_t len_bytes, uint8_t out[CHAP_DIGEST_MAX]);

/* session.c */
struct iscsi_session *session_create(struct iscsi *i);
void session_free(struct iscsi_session *s);
/* On its loop, once: it has moved there. */
void session_arrived(struct iscsi_session *s);
void session_claimed(struct iscsi_session *s, int err);
void session_kicked(struct iscsi_session *s, enum kick kick);
/* Its connection is lost or logged out: everything ends in order. `why` is for the log. */
void session_end(struct iscsi_session *s, const char *why);
/* After a Logout request: the response leaves when the nexus is closed. */
void session_logout(struct iscsi_session *s, struct pdu_out *response);
void session_check_drained(struct iscsi_session *s);
uint32_t session_next_ttt(struct iscsi_session *s);
/* MaxCmdSN as of now; never goes back. */
uint32_t session_window(struct iscsi_session *s);
/* A command has ended and nothing says so: if the window was closed, a NOP-In tells that it is open. */
void session_tell_window(struct iscsi_conn *c);

/* window.c */
/* The session is up: its first window. */
void window_open(struct iscsi_session *s);
/* It counts no more. Fine when it was never up. */
void window_close(struct iscsi_session *s);
/* A command has come that brings so many bytes unasked, or makes room for them: how many more may. */
void window_learn(struct iscsi_session *s, uint32_t bytes);

/* What to do with a numbered request (RFC 7143 4.2.2.1). */
enum cmdsn_verdict { CMDSN_NOW, CMDSN_HOLD, CMDSN_IGNORE };
enum cmdsn_verdict cmdsn_judge(uint32_t exp_cmd_sn, uint32_t max_cmd_sn, uint32_t cmd_sn);
/* Keeps a copy until its turn; -ENOBUFS: too much is held. */
int session_hold(struct iscsi_session *s, struct iscsi_conn *c, const struct pdu_in *pdu);
/* The command with this number was aborted before its turn: its turn passes. -ENOENT: another one is
 * held there. -ENOBUFS, -ENOMEM. */
int session_fill_hole(struct iscsi_session *s, uint32_t cmd_sn, uint32_t itt);
/* The held PDU whose turn it is, out of the list, or NULL. */
struct held_pdu *session_held_next(struct iscsi_session *s);

/* task.c */
struct iscsi_task *itask_find(struct iscsi_session *s, uint32_t itt);
/* Listed, with one reference. NULL: no memory. */
struct iscsi_task *itask_begin(struct iscsi_conn *c, uint32_t itt, unsigned immediate);
void itask_ref(struct iscsi_task *t);
void itask_unref(struct iscsi_task *t);
/* Out of the table: its tag may be used again, its slot in the window is free. */
void itask_unlist(struct iscsi_task *t);
/* Starts it, at once or when less waits to be sent. */
void itask_run(struct iscsi_task *t);
/* Ends a task that scsi never saw. */
void itask_refuse(struct iscsi_task *t, enum sense sense);
/* The last Data-Out that was still to come is through. */
void itask_drained(struct iscsi_task *t);
/* Starts those that waited, as far as there is room. */
void itask_run_waiting(struct iscsi_session *s);
/* Ends without an answer a task that scsi has not seen yet, or has finished; what comes of its Data-Out
 * is thrown away. */
void itask_bury(struct iscsi_task *t);
/* The same for those that wait to be started: `task`, or all at `lun`, or (both NULL) all. Their
 * number. */
unsigned itask_bury_waiting(struct iscsi_session *s, const struct iscsi_task *task,
			    const uint8_t *lun);
/* Its connection is closed: ends the tasks that scsi will not end. */
void itask_abandon(struct iscsi_session *s);
extern const struct scsi_transport iscsi_transport;

/* request.c: the full feature phase */
void request_pdu(struct iscsi_conn *c, struct pdu_in *pdu);
/* Those that came too early and have their turn now. */
void request_run_held(struct iscsi_conn *c);

/* tmf.c */
/* What an initiator may ask for at that iSCSIProtocolLevel, as struct nexus has it. */
uint16_t tmf_supported(uint32_t protocol_level);
void tmf_pdu(struct iscsi_conn *c, struct pdu_in *pdu);
/* Commands had their turn: functions that waited for them may begin. */
void tmf_start_due(struct iscsi_session *s);
/* A task is gone. */
void tmf_task_gone(struct iscsi_session *s);
/* The session ends: nothing is answered any more. */
void tmf_abandon(struct iscsi_session *s);

/* text.c */
void text_pdu(struct iscsi_conn *c, struct pdu_in *pdu);
void text_fini(struct text *t);

/* discovery.c */
/* Appends what SendTargets=`which` is answered. */
void discovery_answer(struct iscsi_conn *c, const char *which, struct writer *w);

/* data.c */
void data_move(struct scsi_seg *seg);
void data_cancel_move(struct scsi_seg *seg);
/* The task that a Data-Out is for; NULL: nobody waits for it, it is thrown away. */
struct iscsi_task *data_out_task(struct iscsi_conn *c, const struct iscsi_bhs *bhs);
/* Where its payload belongs; NULL: it is thrown away. `seg`: whose memory that is, unless NULL. */
uint8_t *data_out_place(struct iscsi_task *t, const struct iscsi_bhs *bhs, uint32_t len,
			struct scsi_seg **seg);
enum data_out_digest { DATA_OUT_GOOD_DIGEST, DATA_OUT_BAD_DIGEST };
/* It is through: its payload lies in its place, or was thrown away. */
void data_out_end(struct iscsi_task *t, const struct iscsi_bhs *bhs, uint32_t len,
		  enum data_out_digest digest);
/* Immediate data of a task that is about to run: it may point into the receive buffer until
 * data_keep_early(). Takes over pdu->buf. */
void data_set_early(struct iscsi_task *t, struct pdu_in *pdu);
void data_keep_early(struct iscsi_task *t);
/* Memory for what comes unasked with a command: for `least` bytes, or for `best`, a whole segment's,
 * where that is not much more, for then nothing is copied. The size; NULL: there is too little. */
uint32_t data_early_size(uint32_t least, uint32_t best);
struct loop_buf *data_early_buf(struct iscsi_session *s, uint32_t least, uint32_t best);
/* A PDU of the segment was sent (or dropped, when the connection is closed). */
void data_in_sent(struct iscsi_conn *c, struct move_in *m);
/* Lets segments go whose owners had to wait until less is queued. */
void data_in_resume(struct iscsi_conn *c);
bool data_still_comes(const struct iscsi_task *t);
/* None is awaited any more; what comes all the same is thrown away. */
void data_forget(struct iscsi_task *t);
/* For the stall timer: keeps count of the tasks that wait for the initiator. */
void data_count_waiting(struct iscsi_task *t);

/* pdu.c */
struct pdu_out *pdu_new(struct iscsi_conn *c, enum iscsi_opcode opcode);
void pdu_free(struct iscsi_loop *home, struct pdu_out *p);
/* Copies `len` bytes behind the header; at most LOOP_BUF_MAX. 0 or -ENOMEM. What is larger than
 * TX_SMALL is charged to the session. */
int pdu_put_data(struct iscsi_conn *c, struct pdu_out *p, const void *data, uint32_t len);
/* Fills in the numbers and digests that depend on when it is sent. */
void pdu_stamp(struct iscsi_conn *c, struct pdu_out *p);
size_t pdu_bytes(const struct pdu_out *p);
/* What it takes of memory that is no segment's. */
size_t pdu_own_bytes(const struct pdu_out *p);
uint32_t pdu_padding(uint32_t data_len);
/* Appends the iovecs of a PDU without its first `skip` bytes; returns how many. */
#define PDU_IOV_MAX (SCSI_SEG_IOV + 2)
unsigned pdu_gather(const struct pdu_out *p, size_t skip, struct iovec *iov);
bool pdu_digest_ok(const void *bytes, uint32_t len, const uint8_t digest[ISCSI_DIGEST_LEN]);

struct ahs_fields {
	const uint8_t *cdb; /* of an extended CDB what comes after 16 bytes; NULL: none */
	uint32_t cdb_len;
	bool has_bidi_len;
	uint32_t bidi_len;
};
/* 0 or -EINVAL. */
int pdu_parse_ahs(const uint8_t *ahs, uint32_t len, struct ahs_fields *out);
/* Queues a Reject that carries the header back. */
void pdu_reject(struct iscsi_conn *c, const struct iscsi_bhs *bhs, enum iscsi_reject_reason why);

/* tx.c */
void tx_init(struct tx *tx);
/* Both take over the PDU, and its memory when the connection is closed. */
void tx_push(struct iscsi_conn *c, struct pdu_out *p);
void tx_push_control(struct iscsi_conn *c, struct pdu_out *p);
void tx_schedule(struct iscsi_conn *c);
void tx_flush(struct iscsi_conn *c);
/* Drops what was not begun of a segment. */
void tx_drop_segment(struct iscsi_conn *c, struct move_in *m);
/* The connection is closed: drops everything, segments are told. */
void tx_purge(struct iscsi_conn *c);
/* The peer does not read what was said to it: it is not read from. */
bool tx_is_full(const struct iscsi_conn *c);
/* No longer. */
bool tx_has_room(const struct iscsi_conn *c);
size_t tx_waiting_bytes(const struct iscsi_conn *c);
/* A last word of a connection that is lost next: it leaves if the socket takes it now. */
void tx_last_word(struct iscsi_conn *c, struct pdu_out *p);

/* conn.c */
int conn_create(struct iscsi *i, int fd, const union net_addr *peer);
/* On its loop, not from within scsi's callbacks: the connection ends now. */
void conn_lose(struct iscsi_conn *c, const char *why);
/* From anywhere on its loop: it ends at the end of the turn. */
void conn_doom(struct iscsi_conn *c, const char *why);
void conn_free(struct iscsi_conn *c);
/* Nothing more is read; it ends when all is sent, and at the latest after CLOSE_TIMEOUT_NS. */
void conn_close_when_sent(struct iscsi_conn *c, const char *why);
/* All is sent: the initiator has LINGER_NS to read it and to close. What it still sends is thrown away, for
 * unread it would have TCP reset the connection, and our last answers with it. */
void conn_linger(struct iscsi_conn *c);
/* After a WAIT: what was kept is worked off, and reading goes on. */
void conn_resume(struct iscsi_conn *c);
void conn_update_events(struct iscsi_conn *c);
/* A NOP-In of our own (RFC 7143 11.19); ISCSI_RESERVED_TAG: it wants no answer. 0 or -ENOMEM. */
int conn_nop_in(struct iscsi_conn *c, uint32_t ttt);
/* To another loop: off this one, with what was received; 0 or -ENOMEM. Then onto that one; 0 or
 * -errno. */
int conn_depart(struct iscsi_conn *c);
int conn_arrive(struct iscsi_conn *c, struct iscsi_loop *home);

/* rx.c */
void rx_ready(struct iscsi_conn *c);
void rx_fini(struct iscsi_conn *c);
/* The memory that a Data-Out is being read into goes away. */
void rx_forget_segment(struct iscsi_conn *c, const struct scsi_seg *seg);
/* No task gets the Data-Out that is being read. */
void rx_forget_task(struct iscsi_conn *c, const struct iscsi_task *t);
/* The bytes that are kept leave the loop, or come to it; 0 or -ENOMEM. */
int rx_pack(struct iscsi_conn *c, uint8_t **bytes, uint32_t *len);
int rx_unpack(struct iscsi_conn *c, const uint8_t *bytes, uint32_t len);

#endif
