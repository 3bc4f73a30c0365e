"""The process that runs user code. It never imports gRPC or protobuf.

One task comes as one packet of a SOCK_SEQPACKET pair, so that the worker, which keeps the reading end too,
can take back whatever the executor has not yet read. What the executor says goes through a stream socket. A
page that both map holds the number of the attempt that is to stop; a signal says that it was written.
"""
