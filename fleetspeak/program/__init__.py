"""What both programs need around the reactor: how a process ends, and waiting for what others return."""
