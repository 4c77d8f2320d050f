"""The spans of a call as Tempo has them, and the way to them in Grafana."""
