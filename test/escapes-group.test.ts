import { playMatrix } from "./escapes.js";

playMatrix("group");
