// Everything here is a convenience: each page works without it.
import "./keys.js";
import "./live.js";
import "./call.js";
import "./exports.js";
import "./sign-in.js";
