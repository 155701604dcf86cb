"""Nothing that takes time: a board must stay reachable through its REPL."""
