/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the thread sanitizer cannot know. liburing maps and unmaps its rings by system calls of its
 * own, unseen by the sanitizer: a ring at the address of one that another thread has closed looks
 * like a race between the two.
 */
const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
	return "race:io_uring_prep_rw\n"
	       "race:io_uring_prep_sendmsg\n"
	       "race:io_uring_prep_recvmsg\n"
	       "race:io_uring_sqe_set_data64\n"
	       "race:io_uring_get_sqe\n"
	       "race:io_uring_cq_advance\n"
	       "race:io_uring_cqe_seen\n";
}
