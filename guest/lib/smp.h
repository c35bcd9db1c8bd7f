/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bringing up the vCPUs and taking them to ring 3.
 */
#ifndef FERRY_GUEST_SMP_H
#define FERRY_GUEST_SMP_H

/* Ring 0, vCPU 0: its own TSS and stacks. */
void smp_init(void);

/* cpus= of the command line, checked. */
unsigned int smp_cpus(void);

/*
 * Ring 0, vCPU 0: start all others, one after the other. Every vCPU calls setup(cpu) in ring 0
 * (NULL: nothing), and main(cpu) in ring 3 when all are up. main() must not return. Dies if a vCPU
 * doesn't come up within 5 s.
 */
_Noreturn void smp_run(void (*setup)(unsigned int cpu), void (*main)(unsigned int cpu));

/* From start.S. */
_Noreturn void secondary_main(void);

#endif
