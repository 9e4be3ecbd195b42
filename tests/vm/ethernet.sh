#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the virtual machine: finds the disk 1.0 by Linux' aoe driver on two interfaces, uses it, and
# reports on the console in lines that start with "vm:". The host judges.

# shellcheck source=tests/vm/start.sh
. /start

facts() {
	for name in size ro mac netif payload state; do
		say "fact $1 $name $(cat "/sys/block/etherd!e1.0/$name" 2>&1)"
	done
}

find_disk() {
	echo 1 >/dev/etherd/discover
	for _ in $(seq 150); do
		[ -b /dev/etherd/e1.0 ] && grep -q up "/sys/block/etherd!e1.0/state" && return 0
		usleep 100000
	done
	return 1
}

# Written past caches, and read again: the data from byte $1 on.
raw() {
	/sbin/dd status=none if=/raw of=/dev/etherd/e1.0 bs=64k seek=$(($1 / 65536)) oflag=direct
	fresh
	/sbin/dd status=none if=/dev/etherd/e1.0 bs=64k skip=$(($1 / 65536)) count=32 iflag=direct of=/tmp/back
	cmp /raw /tmp/back
	rm /tmp/back
}

# The host pulls one cable while the disk is written to, and plugs it in again.
one_path() {
	say "unplug"
	for n in 0 1 2 3; do
		raw $((RAW_AT + (1 + n) * 2097152))
	done
	say "plug"
}

grow() {
	before=$(cat "/sys/block/etherd!e1.0/size")
	say "grow"
	set +x
	for _ in $(seq 150); do
		echo e1.0 >/dev/etherd/revalidate
		[ "$(cat "/sys/block/etherd!e1.0/size")" = "$before" ] || break
		usleep 200000
	done
	set -x
	facts grown
	raw $(($(cat "/sys/block/etherd!e1.0/size") * 512 - 2097152))
}

file_system() {
	/sbin/mke2fs -q -F -t ext4 /dev/etherd/e1.0 $((RAW_AT / 1024))k
	mount -t ext4 /dev/etherd/e1.0 /mnt
	mkdir /mnt/files
	for n in $(seq 40); do
		head -c $((n * 7919)) /raw >"/mnt/files/$n"
	done
	umount /mnt
	fresh
	/sbin/e2fsck -fn /dev/etherd/e1.0
	mount -t ext4 -o ro /dev/etherd/e1.0 /mnt
	for n in $(seq 40); do
		head -c $((n * 7919)) /raw | cmp - "/mnt/files/$n"
	done
	umount /mnt
}

all() {
	dmesg -c >/dev/null
	set -e
	set -x
	find_disk
	set +x
	facts found
	set -x
	raw "$RAW_AT"
	file_system
	one_path
	grow
}

for interface in eth0 eth1; do
	ip link set "$interface" up
done
# A subshell that is not part of a condition, or its "set -e" would be void.
(all) 2>&1
say "result all $?"
dmesg | sed 's/^\[[^]]*\] //' | grep -v "setting .* byte data frames" | sed 's/^/vm: kernel all /'
say "end"
poweroff -f
