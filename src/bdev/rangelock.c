#include "bdev/bdev.h"
