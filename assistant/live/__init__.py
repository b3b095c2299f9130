"""The assistant on a stream: schedule, runner, sinks, overlay and box tracking."""
