"""Who gets which server. Pure: `now` is an argument, nothing here waits."""
