#include "iscsi/iscsi.h"
int main(void)
{
	return 0;
}
