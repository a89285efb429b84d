"""The admin console: its commands, their columns, its protocol. Pure; see docs/console.md."""
