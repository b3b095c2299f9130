"""Cost of answers on a stream: reuse, peers, scaling, quantised weights."""
