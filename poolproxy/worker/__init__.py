"""The worker process: log-in of clients and servers, the relay, time-outs, the control channel."""
