#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the virtual machine: logs in to each disk of /cases with Linux' initiator, uses it, and
# reports on the console in lines that start with "vm:". The host judges; what fails here ends its case.
# Programs are named by their path where busybox has one of its own.
#
# A line of /cases: NAME KIND PORT TARGET DIGEST (None or CRC32C). KIND is rw or ro.

/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
dmesg -n 1

say() {
	echo "vm: $*"
}

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
		queue/discard_max_bytes queue/write_same_max_bytes queue/write_zeroes_max_bytes \
		ro size device/vendor device/model device/rev device/queue_depth device/wwid; do
		say "fact $1 $name $(cat "/sys/block/$2/$name" 2>&1)"
	done
	session=$(readlink -f "/sys/block/$2/device" | sed 's:.*/\(session[0-9]*\)/.*:\1:')
	for name in initial_r2t immediate_data first_burst_len max_burst_len max_outstanding_r2t tpgt; do
		say "fact $1 $name $(cat "/sys/class/iscsi_session/$session/$name")"
	done
	for name in header_digest data_digest max_xmit_dlength max_recv_dlength; do
		say "fact $1 $name $(cat "/sys/class/iscsi_connection/connection${session#session}:0/$name")"
	done
}

fresh() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
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

read_write() {
	raw_area "$1"
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
	iscsistart -i "iqn.2000-01.test:$1" -t "$4" -g 1 -a 10.0.2.2 -p "$3" \
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
	# Long enough without traffic that the kernel asks whether we are there.
	sleep 2
	/sbin/dd status=none if="/dev/$disk" of=/dev/null bs=64k count=16 iflag=direct
}

start() {
	while read -r name; do
		insmod "/modules/$name" || say "problem insmod $name"
	done </modules/order
	ip link set lo up
	ip link set eth0 up
	ip addr add 10.0.2.15/24 dev eth0
	# shellcheck disable=SC1091 # the host made it
	. /parameters
	dmesg -c >/dev/null
}

start
while read -r name kind port target digest <&3; do
	say "case $name"
	# A subshell that is not part of a condition, or its "set -e" would be void.
	(use "$name" "$kind" "$port" "$target" "$digest") 2>&1
	status=$?
	umount /mnt 2>/dev/null
	# One disk at a time; the driver flushes its cache.
	echo 1 >"/sys/block/$(find_disk)/device/delete"
	dmesg -c | sed "s/^/vm: kernel $name /"
	say "result $name $status"
done 3</cases
say "end"
poweroff -f
