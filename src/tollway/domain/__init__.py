"""The words of Tollway as types. No I/O, standard library only."""
