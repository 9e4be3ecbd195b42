#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the virtual machine: logs in to each disk of /cases with Linux' initiator, uses it, and
# reports on the console in lines that start with "vm:". The host judges; what fails here ends its case.
# Programs are named by their path where busybox has one of its own.
#
# A line of /cases: NAME KIND PORT TARGET DIGEST MORE. KIND is rw or ro, DIGEST None or CRC32C, MORE none, tools,
# grow or erase.

# shellcheck source=tests/vm/start.sh
. /start

# The disk that appeared after a login.
find_disk() {
	for _ in $(seq 100); do
		for disk in /sys/block/sd*; do
			if [ -b "/dev/${disk##*/}" ]; then
				echo "${disk##*/}"
				return 0
			fi
		done
		usleep 100000
	done
	return 1
}

facts() {
	for name in queue/logical_block_size queue/physical_block_size queue/minimum_io_size \
		queue/optimal_io_size queue/max_hw_sectors_kb queue/max_sectors_kb queue/write_cache queue/fua \
		queue/discard_max_bytes queue/discard_granularity queue/write_same_max_bytes \
		queue/write_zeroes_max_bytes \
		ro size device/vendor device/model device/rev device/queue_depth device/wwid; do
		say "fact $1 $name $(cat "/sys/block/$2/$name" 2>&1)"
	done
	say "fact $1 provisioning_mode $(cat "/sys/block/$2"/device/scsi_disk/*/provisioning_mode)"
	session=$(readlink -f "/sys/block/$2/device" | sed 's:.*/\(session[0-9]*\)/.*:\1:')
	for name in initial_r2t immediate_data first_burst_len max_burst_len max_outstanding_r2t tpgt; do
		say "fact $1 $name $(cat "/sys/class/iscsi_session/$session/$name")"
	done
	for name in header_digest data_digest max_xmit_dlength max_recv_dlength; do
		say "fact $1 $name $(cat "/sys/class/iscsi_connection/connection${session#session}:0/$name")"
	done
}

# Past the file system, and past caches: every write of the raw area, read again.
raw_area() {
	block=$(cat "/sys/block/$1/queue/logical_block_size")
	at=$((RAW_AT / 65536))
	bytes=$(stat -c %s /raw)
	# With FUA; the same in many pieces at once; a flush behind a cached write; a single block at the end.
	/sbin/dd status=none if=/raw of="/dev/$1" bs=64k seek=$at oflag=direct,dsync
	for n in 0 1 2 3; do
		/sbin/dd status=none if=/raw of="/dev/$1" bs="$block" skip=$((n * 64)) count=64 \
			seek=$((RAW_AT / block + bytes / block + n * 64)) oflag=direct &
		eval "pid$n=$!"
	done
	# shellcheck disable=SC2154 # of eval
	wait "$pid0" && wait "$pid1" && wait "$pid2" && wait "$pid3"
	/sbin/dd status=none if=/raw of="/dev/$1" bs=1M seek=$((RAW_AT / 1048576 + 2 * bytes / 1048576)) conv=fsync
	/sbin/dd status=none if=/raw of="/dev/$1" bs="$block" count=1 seek=$(($(cat "/sys/block/$1/size") * 512 / block - 1)) \
		oflag=direct,dsync
	fresh
	for size in "$block" 65536 1048576; do
		# Single blocks are slow: of them only so many.
		len=$((size == block ? 512 * block : bytes))
		/sbin/dd status=none if="/dev/$1" bs="$size" skip=$((RAW_AT / size)) count=$((len / size)) \
			iflag=direct of=/tmp/back
		cmp -n "$len" /raw /tmp/back
		rm /tmp/back
	done
}

# What the space below the raw data's end is for: 1 MiB discarded, 512 KiB zeroed, the rest as it was.
space() {
	bytes=$(stat -c %s /raw)
	/sbin/dd status=none if=/raw of="/dev/$1" bs=64k seek=$((SPACE_AT / 65536)) oflag=direct
	/sbin/blkdiscard -o "$SPACE_AT" -l 1048576 "/dev/$1"
	/sbin/blkdiscard -z -o $((SPACE_AT + 1048576)) -l 524288 "/dev/$1"
	fresh
	/sbin/dd status=none if="/dev/$1" bs=64k skip=$((SPACE_AT / 65536)) count=$((bytes / 65536)) iflag=direct \
		of=/tmp/back
	cmp -n 1572864 /tmp/back /dev/zero
	tail -c $((bytes - 1572864)) /tmp/back >/tmp/rest
	tail -c $((bytes - 1572864)) /raw | cmp - /tmp/rest
	rm /tmp/back /tmp/rest
}

# A client that decodes what it gets: how it ended and what it said, for the host to judge.
sg() {
	program=$1
	shift
	said=$("/sbin/$program" "$@" 2>&1 </dev/null) && status=0 || status=$?
	say "sg $CASE $status $program $*"
	echo "$said" | sed "s/^/vm: said $CASE $program /"
}

# Debian's sg3_utils against every page and many a command. Blocks of the last MiB but one are theirs.
tools() {
	set +x
	dev=/dev/$1
	block=$(cat "/sys/block/$1/queue/logical_block_size")
	at=$((TOOLS_AT / block))
	sg sg_inq "$dev"
	sg sg_vpd -a "$dev"
	sg sg_modes -a "$dev"
	sg sg_modes -a -6 "$dev"
	sg sg_modes -aa "$dev"
	sg sg_modes -a -c 1 "$dev"
	sg sg_logs -aa "$dev"
	sg sg_logs -ll "$dev"
	sg sg_opcodes "$dev"
	sg sg_opcodes -R "$dev"
	sg sg_opcodes -t "$dev"
	sg sg_luns "$dev"
	sg sg_readcap "$dev"
	sg sg_readcap -l "$dev"
	sg sg_turs -n 3 "$dev"
	sg sg_requests "$dev"
	sg sg_requests -d "$dev"
	sg sg_sync "$dev"
	sg sg_ident "$dev"
	sg sg_timestamp "$dev"
	sg sg_read_buffer -m desc "$dev"
	sg sg_read_buffer -m echo_desc "$dev"
	sg sg_reassign -g "$dev"
	sg sg_senddiag -t "$dev"
	sg sg_senddiag -l "$dev"
	head -c "$block" /raw >/tmp/one
	head -c "$block" /dev/zero | cat /tmp/one - >/tmp/two
	sg sg_write_same -R -i /tmp/one -l $at -n 64 "$dev"
	sg sg_write_same -S -i /tmp/one -l $((at + 64)) -n 64 "$dev"
	sg sg_verify -l $at -c 128 "$dev"
	sg sg_verify -S -l $at -c 1 -E 1 -n "$block" -i /tmp/one "$dev"
	sg sg_compare_and_write -i /tmp/two -x $((2 * block)) -l $at "$dev"
	sg sg_compare_and_write -q -i /tmp/two -x $((2 * block)) -l $at "$dev"
	sg sg_unmap -f -l $((at + 64)) -n 64 "$dev"
	sg sg_write_same -S -N -U -l $((at + 32)) -n 32 "$dev"
	sg sg_get_lba_status -m 1024 -l $at "$dev"
	sg sg_get_lba_status -bb -l $((at + 64)) "$dev"
	rm /tmp/one /tmp/two
	set -x
}

# The host makes the file larger; the kernel finds that out when it looks, and what is new can be used.
grow() {
	before=$(cat "/sys/block/$1/size")
	say "grow $CASE"
	set +x
	for _ in $(seq 150); do
		echo 1 >"/sys/block/$1/device/rescan"
		[ "$(cat "/sys/block/$1/size")" = "$before" ] || break
		usleep 200000
	done
	set -x
	say "fact $CASE grown $(cat "/sys/block/$1/size")"
	/sbin/dd status=none if=/raw of="/dev/$1" bs=64k seek=$(($(cat "/sys/block/$1/size") / 128 - 32)) oflag=direct,dsync
	/sbin/dd status=none if="/dev/$1" bs=64k skip=$(($(cat "/sys/block/$1/size") / 128 - 32)) iflag=direct of=/tmp/back
	cmp /raw /tmp/back
	rm /tmp/back
}

# Everything is erased, by clients that wait for it.
erase() {
	sg sg_format -F -Q -w "/dev/$1"
	sg sg_sanitize -B -Q -w "/dev/$1"
	sg sg_sanitize -O -z -Q -w "/dev/$1"
	sg sg_sanitize -O -z -Q -e "/dev/$1"
	sg sg_requests -p "/dev/$1"
	/sbin/dd status=none if="/dev/$1" bs=1M iflag=direct of=/tmp/back
	cmp -n 67108864 /tmp/back /dev/zero
	rm /tmp/back
}

read_write() {
	raw_area "$1"
	space "$1"
	/sbin/mke2fs -q -F -t ext4 "/dev/$1" $((RAW_AT / 1024))k
	mount -t ext4 "/dev/$1" /mnt
	cp -r /files /mnt/files
	mkdir /mnt/churn
	for n in $(seq 200); do
		echo "$n" >"/mnt/churn/$n"
	done
	for n in $(seq 2 2 200); do
		rm "/mnt/churn/$n"
	done
	sync
	/sbin/dd status=none if=/raw of=/mnt/direct bs=128k oflag=direct,sync
	/sbin/dd status=none if=/raw of=/mnt/gone bs=1M
	sync
	rm /mnt/gone
	sync
	/sbin/fstrim /mnt
	umount /mnt
	/sbin/e2fsck -fn "/dev/$1"
	fresh
	mount -t ext4 "/dev/$1" /mnt
	(cd /mnt && sha256sum -c -s /sums)
	cmp /raw /mnt/direct
	/sbin/dd status=none if=/mnt/direct of=/dev/null bs=1M iflag=direct
	[ "$(cat /mnt/churn/199)" = 199 ]
	[ "$(find /mnt/churn -type f | wc -l)" = 100 ]
	umount /mnt
}

read_only() {
	/sbin/e2fsck -fn "/dev/$1"
	mount -t ext4 -o ro "/dev/$1" /mnt
	(cd /mnt && sha256sum -c -s /sums)
	if touch /mnt/new; then return 1; fi
	umount /mnt
	if /sbin/dd status=none if=/raw of="/dev/$1" bs=64k count=1 oflag=direct; then return 1; fi
}

use() {
	set -e
	set -x
	# shellcheck disable=SC2086 # the rest of the line is words
	iscsistart -i "iqn.2000-01.test:$1" -t "$4" -g 1 -a 10.0.2.2 -p "$3" $7 \
		-P "node.conn[0].iscsi.HeaderDigest=$5" -P "node.conn[0].iscsi.DataDigest=$5" \
		-P "node.conn[0].timeo.noop_out_interval=1" -P "node.conn[0].timeo.noop_out_timeout=10"
	disk=$(find_disk)
	set +x
	facts "$1" "$disk"
	set -x
	case $2 in
	rw) read_write "$disk" ;;
	ro) read_only "$disk" ;;
	esac
	case $6 in
	tools) tools "$disk" ;;
	grow) grow "$disk" ;;
	erase)
		tools "$disk"
		erase "$disk"
		;;
	esac
	# Long enough without traffic that the kernel asks whether we are there.
	sleep 2
	/sbin/dd status=none if="/dev/$disk" of=/dev/null bs=64k count=16 iflag=direct
}

ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
dmesg -c >/dev/null
while read -r name kind port target digest more login <&3; do
	say "case $name"
	# A subshell that is not part of a condition, or its "set -e" would be void.
	(CASE=$name && use "$name" "$kind" "$port" "$target" "$digest" "$more" "$login") 2>&1
	status=$?
	umount /mnt 2>/dev/null
	# One disk at a time; the driver flushes its cache.
	echo 1 >"/sys/block/$(find_disk)/device/delete"
	dmesg -c | sed "s/^/vm: kernel $name /"
	say "result $name $status"
done 3</cases
say "end"
poweroff -f
