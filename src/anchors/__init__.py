"""Published protocols and their rows (conf/anchor), followed here."""
