#include "iscsi/iscsi.h"
