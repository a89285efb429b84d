"""The hot path: callbacks on one epoll that move bytes between linked clients and servers."""
