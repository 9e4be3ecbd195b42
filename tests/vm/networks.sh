#!/bin/busybox sh
# shellcheck shell=dash
# The first process of the virtual machine: runs tests of the host, which are in /tests, a line each, in the host's
# own files, which are mounted to be read, with another kernel and its drivers. eth0 and eth1 are joined by a cable.

# shellcheck source=tests/vm/start.sh
. /start

host_files() {
	mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /mnt &&
		mount -t proc proc /mnt/proc &&
		mount -t sysfs sysfs /mnt/sys &&
		mount -o bind /dev /mnt/dev &&
		mount -t tmpfs tmpfs /mnt/dev/shm &&
		mount -t tmpfs tmpfs /mnt/tmp &&
		mount -t tmpfs tmpfs /mnt/run
}

# The first test with interfaces of its own finds these.
cable() {
	ip link set eth0 name aoe0 && ip link set eth1 name aoe1 &&
		ip link set lo up && ip link set aoe0 up && ip link set aoe1 up
}

run_all() {
	while read -r number test; do
		chroot /mnt /bin/sh -c "cd /tmp && exec $test" </dev/null 2>&1 | sed "s/^/vm: said $number /"
	done </tests
}

mkdir -p /dev/shm
host_files && cable && run_all
say "end"
poweroff -f
