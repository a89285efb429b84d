"""The language of acceptor and worker: messages, their codec, and the channel that carries fds."""
