// The contract as an OpenRPC 1.3 document, made from the same schemas that validate.
// https://spec.open-rpc.org

import type { ConversionConfig } from "@valibot/to-json-schema";
import type { GenericSchema } from "valibot";
import { eventShape } from "../../client/shapes.js";
import { kinds, type Method, methods, type Result } from "../../client/wire.js";

/** Built at each call: it is asked for rarely and takes about a millisecond. */
export async function describeContract(version: string): Promise<Result<"rpc.discover">> {
  // Loaded only when somebody asks, so that the daemon does not carry it.
  const { toJsonSchema } = await import("@valibot/to-json-schema");
  const schemaOf = (schema: GenericSchema) => {
    // Checks that JSON Schema has no words for are in the texts of the contract.
    const config: ConversionConfig = { typeMode: "input", errorMode: "ignore" };
    const { $schema: _, ...rest } = toJsonSchema(schema, config);
    return rest;
  };
  const describe = (name: Method) => {
    const { summary, params, result, refusals } = methods[name];
    return {
      name,
      summary,
      paramStructure: "by-name",
      params: Object.entries<GenericSchema>(params.entries).map(([field, schema]) => ({
        name: field,
        required: schema.type !== "optional",
        schema: schemaOf(schema),
      })),
      result: { name: "result", schema: schemaOf(result) },
      errors: ["invalid_params" as const, ...refusals].map((kind) => ({
        code: kinds[kind].code,
        message: kind,
      })),
    };
  };
  return {
    openrpc: "1.3.2",
    info: {
      title: "procsup",
      version,
      description: "JSON-RPC 2.0 on a Unix socket, a line a text or POST /rpc; params by name.",
    },
    methods: (Object.keys(methods) as Method[]).map(describe),
    // OpenRPC has no word for notifications: this is the params of `event`.
    components: { schemas: { event: schemaOf(eventShape) } },
  };
}
