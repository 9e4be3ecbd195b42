#include "loop/sim.h"
