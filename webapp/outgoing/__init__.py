"""What Pare sends elsewhere: which addresses may be called, how a message is signed, and a POST that goes to no other
address than the one that was looked at."""
