#!/bin/busybox sh
# shellcheck shell=dash
# How the first process of a virtual machine begins, whichever test it is of.

/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
dmesg -n 1

say() {
	echo "vm: $*"
}

# What is read next is read from the disk.
fresh() {
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

while read -r module; do
	insmod "/modules/$module" || say "problem x insmod $module"
done </modules/order
# shellcheck disable=SC1091 # the host made it
. /parameters
