/*
 * The short way for frames of a packet socket: AF_XDP. Private to the files of src/loop.
 *
 * A program in the driver's hands puts the frames that the packet socket wants, of the interface's first
 * queue and to its address, into memory of ours; all others, and those too long for it, go their old way and come through
 * the packet socket. Needs CAP_NET_ADMIN, CAP_BPF, and Linux 5.9.
 *
 * A driver that strips VLAN tags shows the program frames of all VLANs as untagged ones.
 */
#ifndef SPINDLE_LOOP_XDP_H
#define SPINDLE_LOOP_XDP_H

#include "loop/engine.h"

struct xdp;

/* Beside the packet socket `p`, which is open. 0 or -errno: -EPERM, -ENOMEM, -EOPNOTSUPP and others of
 * the driver's. */
int xdp_open(struct xdp **out, struct packet *p, int index, const struct packet_config *config);
/* NULL is fine. */
void xdp_close(struct xdp *x);
/* As packet_want(), of frames that come. That there is room again for frames is told as it is of `p`. */
int xdp_want(struct xdp *x, unsigned wanted);
/* As packet_add_key(). */
int xdp_add_key(struct xdp *x, const uint8_t key[PACKET_KEY_LEN]);
/* The interface has another address, p->mac. 0 or -errno: frames to the old one still come, and no others. */
int xdp_follow_address(struct xdp *x);
/* As packet_recv(). */
unsigned xdp_recv(struct xdp *x, unsigned n);
/* How many there was no room for, since the last call. */
uint64_t xdp_lost(struct xdp *x);
/* A frame of this length can go this way. */
bool xdp_takes(uint32_t len);
/* As packet_send(), of frames that can. */
int xdp_send(struct xdp *x, const struct packet_frame *frames, unsigned n);

#endif
