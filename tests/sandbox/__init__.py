"""The fakes of server/sandbox, asked by clients that are not ours wherever there is one."""
