// Numbers as people read them; measurements come as text from the server.

const minus = (text) => text.replace("+-", "±").replaceAll("-", "\u2212");

export const count = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));
export const measured = (m) => (m ? minus(m.text) : "–");
export const number = (text) => (/\d$/.test(text) ? minus(text) : text);

export function short(n) {
  if (!(n >= 1e5)) return count(n);
  const power = Math.min(4, Math.floor(Math.log10(n) / 3));
  const value = n / 10 ** (3 * power);
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${["", "k", "M", "G", "T"][power]}`;
}

export function duration(seconds) {
  if (!(seconds >= 0)) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(seconds < 600 ? 1 : 0)} min`;
  if (seconds < 48 * 3600) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} days`;
}

// In the currency of the price that the user gave, which has no name.
export const money = (price) => (price > 0 ? price.toFixed(price < 1 ? 4 : 2) : "–");

export function sigmas(gain) {
  if (!gain || !(gain.stderr > 0)) return "";
  const n = Math.abs(gain.value) / gain.stderr;
  return n < 100 ? `${n.toFixed(1)} standard errors` : "more than 100 standard errors";
}

export const day = (seconds) =>
  new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

export const STATES = {
  running: "running",
  silent: "no sign of life",
  stopped: "stopped",
  finished: "finished",
  failed: "failed",
};

export const MEANING = {
  running: "A process holds this run and writes its trials.",
  silent: "The process that held it has ended or is cut off: `kythera resume` goes on with it.",
  stopped: "It was interrupted: `kythera resume` goes on with it.",
  finished: "Start and best were measured on fresh events.",
  failed: "It ended without a result.",
};
