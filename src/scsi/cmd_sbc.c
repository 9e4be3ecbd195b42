#include "scsi/scsi.h"
