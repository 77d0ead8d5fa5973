// A worker that ticks. Browsers slow the timers of a hidden page down to one a minute, which is the server's
// heartbeat time-out; a worker's timers go on, so a tab in the background stays connected.
setInterval(() => postMessage(0), 1000);
