"""What a person needs to see before a long run, and the bugs that would spoil one."""
