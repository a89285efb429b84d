"""The acceptor process: accepts clients, hands them to workers, and keeps what they share."""
