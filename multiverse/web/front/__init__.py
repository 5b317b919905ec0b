"""The front door: the gateway's own HTTP/1.1 server, under Tornado's interfaces."""
