/*
 * Log pages.
 */
#include "scsi_fixture.h"

int main(void)
{
	return 0;
}
