# A thin front: meson and ninja build, scripts/ and tools/ do the rest.
#
#   make run [FILE=disk.img] [SIZE=10G] [LISTEN=127.0.0.1:3260]    serve a disk until Ctrl-C
#   make check                                                     every check and every test
#   make docs                                                      writes the tables of docs/scsi.md anew
#   make build | bench | soak | install [DESTDIR=] [PREFIX=] | clean

FILE = ./spindle.img
SIZE = 10G
LISTEN = 127.0.0.1:3260
PREFIX ?= /usr/local
DESTDIR ?=
ARGS =
SETUP = meson setup build --buildtype=release -Db_lto=true -Dtests=false

MAKEFLAGS += --no-print-directory

# Says nothing when there is nothing to do.
build: build/build.ninja
	@ninja -C build -n spindle | grep -q 'no work to do' || ninja -C build spindle

build/build.ninja:
	@scripts/deps
	@$(SETUP) >/dev/null || $(SETUP)

# exec: the shell of the recipe becomes the server, so that Ctrl-C reaches it and its status is ours.
run:
	@scripts/deps
	@$(MAKE) build
	@exec build/spindle run "$(FILE)" --size "$(SIZE)" --listen "$(LISTEN)" $(ARGS)

check:
	@scripts/deps --check
	@exec tests/run $(ARGS)

soak:
	@scripts/deps --check
	@exec tests/run --soak $(ARGS)

bench:
	@scripts/deps --bench
	@$(MAKE) build
	@ninja --quiet -C build
	@exec bench/run $(ARGS)

docs: build
	@ninja --quiet -C build docs

install: build
	@meson configure build -Dprefix="$(PREFIX)"
	@ninja -C build spindle >/dev/null
	@DESTDIR="$(DESTDIR)" meson install -C build --no-rebuild --quiet

clean:
	@rm -rf build build-asan build-tsan build-clang build-release build-fuzz

.PHONY: build run check soak bench docs install clean
