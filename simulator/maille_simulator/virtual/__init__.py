"""Virtual time: the real cores on a clock that jumps and a bus that loses, doubles and delays."""
