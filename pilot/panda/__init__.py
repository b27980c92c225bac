"""The PanDA server: what goes over the wire in both API generations, what its answers mean, and the client."""
