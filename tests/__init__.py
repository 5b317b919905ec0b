"""The suite: real sockets, real files, the real process; nothing of ours is mocked."""
