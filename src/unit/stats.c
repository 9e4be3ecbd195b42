#include "unit/unit.h"
