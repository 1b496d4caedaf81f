// Carries bytes between its own streams and a Unix socket: whoever it runs as is the caller.
import net from "node:net";

const [path] = process.argv.slice(2);
const socket = net.connect({ path, allowHalfOpen: true });
process.stdin.pipe(socket).pipe(process.stdout);
socket.on("error", () => process.exit(1));
socket.on("end", () => process.exit(0));
