/* test_models.c - key names, configurations, layer lists. */
#include "tests/synth.h"
#include "tests/test.h"

/* ---- keys ---------------------------------------------------------------------------- */

static const struct {
    KeyDialect d;
    const char *canonical, *key;
} key_pairs[] = {
#define L "model.diffusion_model."
#define T "transformer_blocks.0."
    {KEY_LDM, "unet.conv_in.weight", L "input_blocks.0.0.weight"},
    {KEY_LDM, "unet.conv_norm_out.bias", L "out.0.bias"},
    {KEY_LDM, "unet.conv_out.weight", L "out.2.weight"},
    {KEY_LDM, "unet.time_embedding.linear_1.weight", L "time_embed.0.weight"},
    {KEY_LDM, "unet.time_embedding.linear_2.bias", L "time_embed.2.bias"},
    {KEY_LDM, "unet.down_blocks.0.resnets.0.conv1.weight", L "input_blocks.1.0.in_layers.2.weight"},
    {KEY_LDM, "unet.down_blocks.0.attentions.1.proj_in.bias", L "input_blocks.2.1.proj_in.bias"},
    {KEY_LDM, "unet.down_blocks.1.resnets.0.conv_shortcut.weight",
     L "input_blocks.4.0.skip_connection.weight"},
    {KEY_LDM, "unet.down_blocks.2.downsamplers.0.conv.weight", L "input_blocks.9.0.op.weight"},
    {KEY_LDM, "unet.down_blocks.3.resnets.1.norm2.weight",
     L "input_blocks.11.0.out_layers.0.weight"},
    {KEY_LDM, "unet.mid_block.resnets.1.time_emb_proj.bias", L "middle_block.2.emb_layers.1.bias"},
    {KEY_LDM, "unet.mid_block.attentions.0." T "attn2.to_out.0.bias",
     L "middle_block.1." T "attn2.to_out.0.bias"},
    {KEY_LDM, "unet.up_blocks.0.resnets.2.conv2.weight", L "output_blocks.2.0.out_layers.3.weight"},
    {KEY_LDM, "unet.up_blocks.0.upsamplers.0.conv.weight", L "output_blocks.2.1.conv.weight"},
    {KEY_LDM, "unet.up_blocks.1.upsamplers.0.conv.bias", L "output_blocks.5.2.conv.bias"},
    {KEY_LDM, "unet.up_blocks.3.attentions.2." T "ff.net.0.proj.weight",
     L "output_blocks.11.1." T "ff.net.0.proj.weight"},
    {KEY_LDM, "vae.encoder.down_blocks.1.downsamplers.0.conv.weight",
     "first_stage_model.encoder.down.1.downsample.conv.weight"},
    {KEY_LDM, "vae.decoder.up_blocks.0.resnets.2.conv_shortcut.weight",
     "first_stage_model.decoder.up.3.block.2.nin_shortcut.weight"},
    {KEY_LDM, "vae.decoder.up_blocks.2.upsamplers.0.conv.bias",
     "first_stage_model.decoder.up.1.upsample.conv.bias"},
    {KEY_LDM, "vae.decoder.mid_block.resnets.1.norm1.weight",
     "first_stage_model.decoder.mid.block_2.norm1.weight"},
    {KEY_LDM, "vae.encoder.mid_block.attentions.0.group_norm.bias",
     "first_stage_model.encoder.mid.attn_1.norm.bias"},
    {KEY_LDM, "vae.encoder.conv_norm_out.weight", "first_stage_model.encoder.norm_out.weight"},
    {KEY_LDM, "vae.post_quant_conv.weight", "first_stage_model.post_quant_conv.weight"},
    {KEY_LDM, "text_encoder.text_model.final_layer_norm.bias",
     "cond_stage_model.transformer.text_model.final_layer_norm.bias"},
#define O "cond_stage_model.model."
    {KEY_LDM_OPENCLIP, "text_encoder.text_model.embeddings.token_embedding.weight",
     O "token_embedding.weight"},
    {KEY_LDM_OPENCLIP, "text_encoder.text_model.embeddings.position_embedding.weight",
     O "positional_embedding"},
    {KEY_LDM_OPENCLIP, "text_encoder.text_model.final_layer_norm.weight", O "ln_final.weight"},
    {KEY_LDM_OPENCLIP, "text_encoder.text_model.encoder.layers.22.mlp.fc2.bias",
     O "transformer.resblocks.22.mlp.c_proj.bias"},
    {KEY_LDM_OPENCLIP, "text_encoder.text_model.encoder.layers.0.self_attn.out_proj.weight",
     O "transformer.resblocks.0.attn.out_proj.weight"},
    {KEY_DIFFUSERS, "vae.encoder.conv_in.bias", "encoder.conv_in.bias"},
#undef L
#undef T
#undef O
};

TEST(keys_to_ldm)
{
    KeyRef r;
    for (size_t i = 0; i < sizeof key_pairs / sizeof *key_pairs; i++) {
        CHECK(key_ref(&r, key_pairs[i].d, key_pairs[i].canonical, 0));
        CHECK_STR(r.key, key_pairs[i].key);
        CHECK_INT(r.parts, 1);
    }
    CHECK(!key_ref(&r, KEY_LDM, "lora.x", 0));
    CHECK(!key_ref(&r, KEY_LDM, "unet.nothing.weight", 0));
}

TEST(keys_packed_and_old)
{
    KeyRef r;
    CHECK(key_ref(&r, KEY_LDM_OPENCLIP,
                  "text_encoder.text_model.encoder.layers.3.self_attn.v_proj.bias", 0));
    CHECK_STR(r.key, "cond_stage_model.model.transformer.resblocks.3.attn.in_proj_bias");
    CHECK_INT(r.part, 2);
    CHECK_INT(r.parts, 3);
    CHECK(key_ref(&r, KEY_LDM, "vae.decoder.mid_block.attentions.0.to_out.0.weight", 0));
    CHECK_STR(r.key, "first_stage_model.decoder.mid.attn_1.proj_out.weight");
    CHECK(r.conv1x1);
    CHECK(key_ref(&r, KEY_LDM, "vae.decoder.mid_block.attentions.0.to_k.bias", 0) && !r.conv1x1);
    CHECK(key_ref(&r, KEY_DIFFUSERS, "vae.decoder.mid_block.attentions.0.to_k.bias", 1));
    CHECK_STR(r.key, "decoder.mid_block.attentions.0.key.bias");
    CHECK(!key_ref(&r, KEY_DIFFUSERS, "vae.decoder.mid_block.attentions.0.to_k.bias", 2));
    CHECK(key_ref(&r, KEY_LDM, "text_encoder.text_model.final_layer_norm.bias", 1));
    CHECK_STR(r.key, "cond_stage_model.transformer.final_layer_norm.bias");
}

TEST(keys_kohya)
{
    char buf[KEY_MAX];
    CHECK(key_kohya(buf, sizeof buf, "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1."
                                     "to_out.0"));
    CHECK_STR(buf, "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0");
    CHECK(key_kohya(buf, sizeof buf, "text_encoder.text_model.encoder.layers.0.mlp.fc1"));
    CHECK_STR(buf, "lora_te_text_model_encoder_layers_0_mlp_fc1");
    CHECK(!key_kohya(buf, sizeof buf, "vae.encoder.conv_in"));
    CHECK(!key_kohya(buf, 20, "unet.down_blocks.0.attentions.0"));
}

/* ---- configurations and layers --------------------------------------------------------- */

static const char sd15[] = "{\"type\": \"sd1\", \"unet\": [320,640,1280,1280], \"vae\": "
    "[128,256,512,512], \"text_width\": 768, \"text_layers\": 12}";
static const char sd21[] = "{\"type\": \"sd2\", \"unet\": [320,640,1280,1280], \"vae\": "
    "[128,256,512,512], \"text_width\": 1024, \"text_layers\": 23, \"prediction_type\": "
    "\"v_prediction\"}";

/* Parameters of each network, as diffusers and transformers count them. */
static void count_parameters(const Layers *ls, int64_t n[3])
{
    n[0] = n[1] = n[2] = 0;
    for (size_t i = 0; i < ls->count; i++)
        for (int p = 0; p < 2; p++) {
            int64_t shape[4], count = 1;
            int ndim = layer_param(&ls->list[i], p, NULL, shape);
            for (int j = 0; j < ndim; j++) count *= shape[j];
            char c = ls->list[i].path[0];
            if (ndim) n[c == 'u' ? 0 : c == 't' ? 1 : 2] += count;
        }
}

TEST(layers_have_known_sizes)
{
    SdConfig c;
    Layers ls;
    int64_t n[3];
    Err e = {0};
    CHECK_OK(config_from_json(&c, sd15, "sd15", &e), &e);
    CHECK_INT(c.unet_heads[3], 8);
    CHECK_INT(c.text_heads, 12);
    CHECK_OK(layers_build(&ls, &c, &e), &e);
    count_parameters(&ls, n);
    layers_free(&ls);
    CHECK_INT(n[0], 859520964);
    CHECK_INT(n[1], 123060480);
    CHECK_INT(n[2], 83653863);
    CHECK_OK(config_from_json(&c, sd21, "sd21", &e), &e);
    CHECK_INT(c.unet_heads[3], 20);
    CHECK_INT(c.v_prediction, 1);
    CHECK_INT(c.text_gelu, 1);
    CHECK_OK(layers_build(&ls, &c, &e), &e);
    count_parameters(&ls, n);
    layers_free(&ls);
    CHECK_INT(n[0], 865910724);
    CHECK_INT(n[1], 340387840);
}

TEST(layers_lora_sets_of_sd15)
{
    SdConfig c;
    Layers ls;
    LoraTarget *t;
    size_t n, text = 0, unet = 0, conv = 0, edge = 0;
    int64_t per_rank = 0, per_conv_rank = 0, conv_at_rank = 0;
    Err e = {0};
    CHECK_OK(config_from_json(&c, sd15, "sd15", &e), &e);
    CHECK_OK(layers_build(&ls, &c, &e), &e);
    CHECK_OK(layers_lora_targets(&ls, &t, &n, &e), &e);
    for (size_t i = 0; i < n; i++) {
        int64_t size = t[i].out + (int64_t)t[i].in * t[i].k * t[i].k;
        if (t[i].set == LORA_EDGE) {
            edge++;
            continue;
        }
        if (t[i].set == LORA_CONV) conv++;
        else if (t[i].text) text++;
        else unet++;
        if (t[i].set == LORA_DEFAULT) per_rank += size;
        else if (t[i].k == 3) per_conv_rank += size;
        else conv_at_rank += size;
    }
    lora_targets_free(t, n);
    layers_free(&ls);
    CHECK_INT(text, 72);
    CHECK_INT(unet, 192);
    CHECK_INT(conv, 86);
    CHECK_INT(edge, 4);
    CHECK_INT(per_rank, 589824);
    CHECK_INT(per_conv_rank, 544000);
    CHECK_INT(conv_at_rank, 82880);
}

TEST(config_json_is_checked)
{
    static const struct { const char *text, *mention; } bad[] = {
        {"{", "line 1"}, {"[]", "object"}, {"{\"type\": \"sd3\"}", "type"},
        {"{\"type\": \"sd1\", \"colour\": 1}", "colour"},
        {"{\"type\": \"sd1\", \"unet\": [32,32,32], \"vae\": [32,32,32,32]}", "unet"},
        {"{\"type\": \"sd1\", \"unet\": [32,32,32,48], \"vae\": [32,32,32,32], \"text_width\": 64, "
         "\"text_layers\": 1}", "48"},
        {"{\"type\": \"sd1\", \"unet\": [32,32,32,32], \"vae\": [32,32,32,32], \"text_width\": 96, "
         "\"text_layers\": 1}", "96"},
        {"{\"type\": \"sd2\", \"unet\": [32,64,64,64], \"vae\": [32,32,32,32], \"text_width\": 64, "
         "\"text_layers\": 1}", "32"},
        {"{\"type\": \"sd1\", \"unet\": [32,32,32,32], \"vae\": [32,32,32,32], \"text_width\": 64, "
         "\"text_layers\": 1, \"in_channels\": 5}", "depth"},
        {"{\"type\": \"sd1\", \"unet\": [32,32,32,32], \"vae\": [32,32,32,32], \"text_width\": 64, "
         "\"text_layers\": 1, \"prediction_type\": \"sample\"}", "sample"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        SdConfig c;
        Err e = {0};
        CHECK_INT(config_from_json(&c, bad[i].text, "my.json", &e), ERR_INPUT);
        CHECK(strstr(e.msg, bad[i].mention) && strstr(e.msg, "my.json"));
    }
}

TEST(config_names_other_kinds)
{
    static const struct { const char *tensor, *kind; } other[] = {
        {"lora_unet_x.lora_down.weight", "LoRA"},
        {"unet.x.lora_A.weight", "LoRA"},
        {"conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "SDXL"},
        {"model.diffusion_model.joint_blocks.0.x", "SD3"},
        {"double_blocks.0.img_attn.qkv.weight", "Flux"},
        {"control_model.input_blocks.0.0.weight", "ControlNet"},
        {"emb_params", "embedding"}, {"decoder.conv_in.weight", "VAE"},
        {"first_stage_model.decoder.conv_in.weight", "VAE"},
        {"down_blocks.0.resnets.0.conv1.weight", "folder"},
        {"model.diffusion_model.input_blocks.0.0.weight", "text encoder"},
        {"weight", "no SD checkpoint"}};
    char path[300];
    snprintf(path, sizeof path, "%s/other.safetensors", test_dir());
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        SynthTensor t = {other[i].tensor, FD_F16, 1, {4}, NULL};
        Checkpoint *ck = NULL;
        Err e = {0};
        CHECK_OK(synth_file(path, &t, 1, NULL, 0, &e), &e);
        CHECK_INT(checkpoint_open(&ck, path, &e), ERR_INPUT);
        CHECK(!ck && strstr(e.msg, "other.safetensors"));
        if (!strstr(e.msg, other[i].kind)) CHECK_STR(e.msg, other[i].kind);
    }
}
