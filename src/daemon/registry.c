/*
 * What can be named on the command line: a new back end is one file and one line here.
 */
#include "daemon/daemon.h"

const struct store_type *const registry_stores[] = {
	&store_file, &store_ram, &store_null, &store_slice, &store_fault, NULL,
};
